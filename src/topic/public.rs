//! Topics whose events come over HTTP without a token, from whoever likes (`topic.public`). What
//! bounds them is a rate, so that there is none without one.
//!
//! Owns: when a topic is open, what may be set. Does not own: which requests come in so (`http`),
//! counting them.

use crate::topic::options::{Overrides, TopicOptions};
use crate::topic::{Error, Topic, option_value};
use crate::types::Rate;

/// The option.
pub const KEY: &str = "topic.public";

/// True if these options, by their canonical keys, say that a topic is public.
pub fn is_set(options: &Overrides) -> bool {
    options.get(KEY).is_some_and(|value| option_value::boolean(value) == Ok(true))
}

/// True if nothing bounds what a public topic takes.
fn is_unbounded(options: &TopicOptions, senders_have_rate: bool) -> bool {
    options.public && options.rate == Rate::default() && !senders_have_rate
}

/// Refuses a topic that becomes public without a rate, or loses its rate while it is public. One
/// that was so before, because the server lost its rate, may change in other ways.
///
/// # Errors
/// [`Error::InvalidConfig`].
pub(crate) fn check(
    new: &TopicOptions,
    old: Option<&TopicOptions>,
    senders_have_rate: bool,
) -> Result<(), Error> {
    let was = old.is_some_and(|old| is_unbounded(old, senders_have_rate));
    if was || !is_unbounded(new, senders_have_rate) {
        return Ok(());
    }
    let allowed = "anybody may send to a public topic, so it needs a rate: topic.rate.requests or \
                   topic.rate.bytes on the topic, or http.rate.requests or http.rate.bytes on the \
                   server";
    Err(option_value::invalid(KEY, "true", allowed))
}

/// True if a topic with these options takes what anybody sends, and did not before.
pub(crate) fn is_opened(
    old: Option<&TopicOptions>,
    new: &TopicOptions,
    senders_have_rate: bool,
) -> bool {
    let was_shut = |old: &TopicOptions| !old.public || is_unbounded(old, senders_have_rate);
    let takes_all = new.public && !is_unbounded(new, senders_have_rate);
    let is_said = new.public && old.is_none_or(|old| !old.public);
    is_said || takes_all && old.is_none_or(was_shut)
}

/// Refuses it for all topics of a server: each is to be opened by itself.
///
/// # Errors
/// [`Error::InvalidConfig`].
pub(crate) fn check_server(server: &Overrides) -> Result<(), Error> {
    if is_set(server) {
        let allowed = "it is set on each topic that is to be public, not for all of them";
        return Err(option_value::invalid(KEY, "true", allowed));
    }
    Ok(())
}

/// True if whoever sends no token may send to the topic.
pub(crate) fn is_open(topic: &Topic, senders_have_rate: bool) -> bool {
    topic.options.public && !is_unbounded(&topic.options, senders_have_rate)
}

/// Says which topics are not open although they should be.
pub(crate) fn warn(topic: &Topic, senders_have_rate: bool) {
    if is_unbounded(&topic.options, senders_have_rate) {
        tracing::warn!(
            topic = %topic.name,
            "the topic is public but has no rate, nor has the server: it takes nothing without a \
             token until topic.rate.* or http.rate.* is set"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(public: bool, requests: u32) -> TopicOptions {
        let rate = Rate { requests, bytes: 0 };
        TopicOptions { public, rate, ..TopicOptions::default() }
    }

    #[test]
    fn what_is_public_has_a_rate() {
        let (closed, bare, rated) = (options(false, 0), options(true, 0), options(true, 5));
        for (new, old, senders_have_rate, is_fine) in [
            (&closed, None, false, true),
            (&bare, None, false, false),
            (&bare, None, true, true),
            (&rated, None, false, true),
            (&bare, Some(&closed), false, false),
            (&bare, Some(&rated), false, false),
            (&bare, Some(&rated), true, true),
            (&bare, Some(&bare), false, true),
            (&closed, Some(&bare), false, true),
        ] {
            let checked = check(new, old, senders_have_rate);
            assert_eq!(checked.is_ok(), is_fine, "{new:?} {old:?} {senders_have_rate}");
            if let Err(error) = checked {
                let text = error.to_string();
                assert!(text.contains("topic.rate.requests") && text.contains(KEY), "{text}");
            }
        }
    }

    #[test]
    fn a_topic_is_opened_by_the_option_and_by_the_rate_that_it_lacked() {
        let (closed, bare, rated) = (options(false, 0), options(true, 0), options(true, 5));
        for (old, new, senders_have_rate, is_so) in [
            (None, &closed, true, false),
            (None, &rated, false, true),
            (None, &bare, false, true),
            (Some(&closed), &rated, false, true),
            (Some(&bare), &rated, false, true),
            (Some(&bare), &rated, true, false),
            (Some(&bare), &bare, false, false),
            (Some(&rated), &bare, true, false),
            (Some(&rated), &closed, false, false),
        ] {
            let opened = is_opened(old, new, senders_have_rate);
            assert_eq!(opened, is_so, "{old:?} {new:?} {senders_have_rate}");
        }
    }

    #[test]
    fn a_server_does_not_open_all_topics() {
        let set = |value: &str| Overrides::from([(KEY.to_owned(), value.to_owned())]);
        assert!(check_server(&set("true")).is_err() && check_server(&set(" TRUE ")).is_err());
        assert!(check_server(&set("false")).is_ok() && check_server(&Overrides::new()).is_ok());
    }
}
