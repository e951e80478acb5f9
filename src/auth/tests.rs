//! Tokens over a store whose log is in memory.

use super::*;
use crate::store::testing::Rig;

const HOUR: Duration = Duration::from_secs(3_600);

fn open(rig: &Rig, anonymous_allowed: bool) -> Auth {
    let tasks = Tasks::for_tests();
    Auth::open(rig.store(), rig.clock.clone(), tasks, anonymous_allowed, HOUR).unwrap()
}

fn new(name: &str, allow: &[&str], expires_in: Option<Duration>) -> NewToken {
    let allow = allow.iter().map(|rule| (*rule).to_owned()).collect();
    NewToken { name: name.to_owned(), allow, expires_in, ..NewToken::default() }
}

fn refusal(auth: &Auth, text: &str) -> Option<Refusal> {
    auth.authenticate(text).err()
}

#[tokio::test]
async fn the_first_token_puts_authentication_in_force_for_ever() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    assert!(!auth.is_required() && auth.anonymous().is_some());
    let anybody = auth.anonymous().unwrap();
    assert!(auth.recheck(&anybody).is_ok());
    let made = auth.create(new("a", &[], None)).await.unwrap();
    assert!(made.enforces && auth.is_required() && auth.anonymous().is_none());
    assert_eq!(auth.recheck(&anybody), Err(Refusal::Missing), "who came before goes on no longer");
    assert!(!auth.create(new("b", &[], None)).await.unwrap().enforces);
    auth.revoke("a").await.unwrap();
    auth.revoke("b").await.unwrap();
    drop(auth);
    let rig = rig.restart(|_, _| {});
    assert!(open(&rig, false).is_required());
    let open_to_all = open(&rig, true);
    assert!(!open_to_all.is_required() && open_to_all.is_set_up());
    assert!(open_to_all.recheck(&anybody).is_ok());
    assert!(!open_to_all.create(new("c", &[], None)).await.unwrap().enforces);
    assert_eq!(refusal(&open_to_all, &made.text), Some(Refusal::Invalid), "checked all the same");
}

#[tokio::test]
async fn tokens_hold_after_a_restart_and_after_the_state_was_lost() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let kept = auth.create(new("kept", &["read:topic:a"], None)).await.unwrap();
    let gone = auth.create(new("gone", &[], None)).await.unwrap();
    let access = auth.issue(&auth.authenticate(&kept.text).unwrap()).unwrap();
    auth.revoke(&gone.token.id).await.unwrap();
    drop(auth);
    let rig = rig.restart(|_, dir| std::fs::remove_dir_all(dir.join("state")).unwrap());
    let auth = open(&rig, false);
    for text in [&kept.text, &access.text] {
        let principal = auth.authenticate(text).unwrap();
        assert_eq!(principal.name(), "kept");
        assert!(principal.may(Operation::Read, Resource::Topic("a")));
        assert!(!principal.may(Operation::Write, Resource::Topic("a")));
    }
    assert_eq!(refusal(&auth, &gone.text), Some(Refusal::Invalid));
}

#[tokio::test]
async fn only_the_whole_secret_is_taken_and_it_is_stored_nowhere() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let made = auth.create(new("a", &[], None)).await.unwrap();
    assert_eq!(auth.authenticate(&made.text).unwrap().name(), "a");
    let mut other = made.text.clone();
    let last = other.pop().unwrap();
    other.push(if last == 'x' { 'y' } else { 'x' });
    for bad in [other.as_str(), "", "floe_", &made.text[1..], &made.token.id] {
        assert_eq!(refusal(&auth, bad), Some(Refusal::Invalid), "{bad}");
    }
    let secret = made.text.rsplit('_').next().unwrap().as_bytes();
    let is_in = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    let stored = rig.store().scan(crate::store::Space::Token, b"").unwrap();
    assert_eq!(stored.len(), 2, "the token and the key");
    assert!(!stored.iter().any(|(key, value)| is_in(key) || is_in(value)));
    let frames = rig.log.frames();
    assert!(!frames.frames.iter().any(|frame| is_in(&frame.draft.payload)));
}

#[tokio::test]
async fn a_token_ends_at_its_time_and_its_access_tokens_with_it() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let made = auth.create(new("a", &[], Some(HOUR / 2))).await.unwrap();
    let principal = auth.authenticate(&made.text).unwrap();
    let access = auth.issue(&principal).unwrap();
    assert_eq!(access.expires_in_s, 1_800);
    rig.clock.advance(1_799_000);
    assert!(auth.recheck(&principal).is_ok() && auth.authenticate(&access.text).is_ok());
    rig.clock.advance(1_000);
    assert_eq!(auth.recheck(&principal), Err(Refusal::Expired));
    assert_eq!(refusal(&auth, &made.text), Some(Refusal::Expired));
    assert_eq!(refusal(&auth, &access.text), Some(Refusal::Expired));
    // The name is free again.
    auth.create(new("a", &[], None)).await.unwrap();
}

#[tokio::test]
async fn an_access_token_ends_after_an_hour_or_with_its_token() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let made = auth.create(new("a", &["write:topic:t"], None)).await.unwrap();
    let access = auth.issue(&auth.authenticate(&made.text).unwrap()).unwrap();
    let short = auth.authenticate(&access.text).unwrap();
    assert!(short.may(Operation::Write, Resource::Topic("t")));
    assert!(!short.may(Operation::Write, Resource::Topic("u")));
    assert!(auth.issue(&Principal::anonymous()).is_none());
    assert!(auth.issue(&short).is_none(), "it cannot renew itself");
    rig.clock.advance(3_600_000);
    assert_eq!(refusal(&auth, &access.text), Some(Refusal::Expired));
    assert_eq!(auth.recheck(&short), Err(Refusal::Expired));
    let access = auth.issue(&auth.authenticate(&made.text).unwrap()).unwrap();
    let short = auth.authenticate(&access.text).unwrap();
    auth.revoke("a").await.unwrap();
    assert_eq!(refusal(&auth, &access.text), Some(Refusal::Invalid));
    assert_eq!(auth.recheck(&short), Err(Refusal::Invalid), "open connections see it");
}

#[tokio::test]
async fn names_are_unique_among_what_is_in_force() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let made = auth.create(new("a", &[], None)).await.unwrap();
    let exists = |error: Error| matches!(error, Error::Exists(_));
    assert!(exists(auth.create(new("a", &[], None)).await.unwrap_err()));
    assert!(exists(auth.create(new(&made.token.id, &[], None)).await.unwrap_err()));
    auth.revoke("a").await.unwrap();
    assert_eq!(auth.revoke("a").await.unwrap_err(), Error::Unknown("a".into()));
    let again = auth.create(new("a", &[], None)).await.unwrap();
    assert_eq!(auth.revoke("a").await.unwrap().id, again.token.id);
    let states: Vec<State> = auth.list().iter().map(|token| token.state(auth.now_ms())).collect();
    assert_eq!(states, [State::Revoked, State::Revoked]);
}

#[tokio::test]
async fn wrong_wishes_are_refused_and_change_nothing() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    for name in ["", "a b", "a:b", "a,b", "é", &"a".repeat(129)] {
        let error = auth.create(new(name, &[], None)).await.unwrap_err();
        assert!(matches!(error, Error::InvalidName(_)), "{name}");
    }
    let error = auth.create(new("a", &["fly:topic:a"], None)).await.unwrap_err();
    assert!(matches!(error, Error::InvalidRule(_)));
    for time in [Duration::ZERO, Duration::MAX] {
        let error = auth.create(new("a", &[], Some(time))).await.unwrap_err();
        assert_eq!(error, Error::InvalidExpiry);
    }
    assert!(!auth.is_set_up() && auth.list().is_empty());
}

#[tokio::test]
async fn a_token_shows_when_it_was_used() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let made = auth.create(new("a", &[], None)).await.unwrap();
    assert_eq!(made.token.last_used_ms(), None);
    rig.clock.advance(5);
    auth.authenticate(&made.text).unwrap();
    assert_eq!(auth.list()[0].last_used_ms(), Some(1_000_005));
}

#[test]
fn what_is_over_makes_room_and_what_is_in_force_does_not() {
    let token = |at: i64, expires_ms| {
        let (id, name) = (format!("{at:010}"), format!("n{at}"));
        Arc::new(Token::new(id, name, Proof::Secret([0; 32]), Rules::default(), at, expires_ms))
    };
    let mut tokens: Vec<_> = (0..TOKENS_MAX as i64 - 1).map(|at| token(at, None)).collect();
    assert_eq!(spare(&tokens, 50), Ok(vec![]));
    tokens.push(token(99, None));
    assert_eq!(spare(&tokens, 50), Err(Error::TooMany));
    tokens[7] = token(7, Some(50));
    tokens[9] = token(9, Some(50));
    assert_eq!(spare(&tokens, 50), Ok(vec!["0000000007".to_owned()]));
}

fn vouched(name: &str, allow: &[&str], identity: Identity) -> NewToken {
    NewToken { identity: Some(identity), ..new(name, allow, None) }
}

#[tokio::test]
async fn a_token_for_a_certificate_has_no_secret_and_ends_as_others_do() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let shop = || Identity::Certificate("CN=shop,O=Example".to_owned());
    let made = auth.create(vouched("shop", &["write:topic:a"], shop())).await.unwrap();
    assert!(made.text.is_empty() && made.enforces && auth.is_required());
    let principal = auth.certified("CN=shop,O=Example").unwrap();
    assert_eq!(principal.name(), "shop");
    assert!(principal.may(Operation::Write, Resource::Topic("a")));
    assert!(!principal.may(Operation::Read, Resource::Topic("a")));
    let other = auth.certified("CN=other,O=Example").err();
    assert_eq!(other, Some(Refusal::NoRights("client certificate")));
    let forged = format!("floe_{}_{}", made.token.id, "0".repeat(40));
    assert_eq!(refusal(&auth, &forged), Some(Refusal::Invalid), "nobody has its secret");
    let twice = auth.create(vouched("twice", &["all"], shop())).await.err();
    assert_eq!(twice, Some(Error::Exists("shop".to_owned())));
    auth.revoke("shop").await.unwrap();
    assert!(auth.recheck(&principal).is_err());
    assert_eq!(auth.certified("CN=shop,O=Example").err(), Some(Refusal::Invalid));
    auth.create(vouched("again", &["all"], shop())).await.unwrap();
    drop(auth);
    let rig = rig.restart(|_, _| {});
    assert_eq!(open(&rig, false).certified("CN=shop,O=Example").unwrap().name(), "again");
}

#[tokio::test]
async fn a_token_for_somebody_whom_others_vouch_for_says_what_it_may_do() {
    let rig = Rig::new();
    let auth = open(&rig, false);
    let subject = |text: &str| Identity::Subject(text.to_owned());
    let none = auth.create(vouched("a", &[], subject("u"))).await.err();
    assert_eq!(none, Some(Error::NoRule("subject")));
    for bad in ["", " u", "a\nb", &"u".repeat(513)] {
        let refused = auth.create(vouched("a", &["all"], subject(bad))).await.err();
        assert_eq!(refused, Some(Error::InvalidIdentity("subject")), "{bad:?}");
    }
    assert!(!auth.is_required(), "nothing was made");
    // Without an issuer a JWT is a wrong token.
    assert_eq!(refusal(&auth, "eyJhbGciOiJFUzI1NiJ9.e30.AA"), Some(Refusal::Invalid));
}
