//! A token in the URL, `?token=`, for senders that can set no header (`http.token.in.query`):
//! `navigator.sendBeacon`, clients of Tinybird.
//!
//! URLs stand in the logs of proxies and in the history of browsers. So it must be a token that can
//! do no more than write, and it is taken out of the URL before anything else sees the request: no
//! log, answer, parameter or fingerprint has it.
//!
//! Owns: where it may stand, and which tokens may. Does not own: what tokens there are (`auth`),
//! which origins a topic lists (`ingest::cors`).

use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use url::form_urlencoded;

use crate::auth::Principal;
use crate::http::ingest::{self, cors, tinybird};
use crate::http::problem::Problem;
use crate::http::{Api, auth, credentials};

/// The parameter.
const NAME: &str = "token";

/// The token that stood in the URL of a request. It is not to be printed.
#[derive(Clone, Hash)]
pub(super) struct QueryToken {
    token: String,
    is_twice: bool,
}

/// Takes the token out of the URL of a request that brings events; an empty one says nothing, as an
/// empty header does.
#[inline]
pub(super) fn take(request: &mut Request) {
    if request.uri().query().is_some() {
        take_out(request);
    }
}

fn take_out(request: &mut Request) {
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    if !query.split('&').any(is_token) || !takes_events(uri.path()) {
        return;
    }
    let (tokens, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| is_token(pair));
    let value = |pair: &str| {
        form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let mut tokens = tokens.into_iter().filter_map(value).filter(|token| !token.is_empty());
    let found = tokens.next().map(|token| (token, tokens.next().is_some()));
    let uri = without(uri, &rest.join("&"));
    *request.uri_mut() = uri;
    if let Some((token, is_twice)) = found {
        request.extensions_mut().insert(QueryToken { token, is_twice });
    }
}

fn is_token(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    name == NAME
        || (name.contains(['%', '+'])
            && form_urlencoded::parse(name.as_bytes()).next().is_some_and(|(name, _)| name == NAME))
}

/// The same URI with this query.
fn without(uri: &Uri, query: &str) -> Uri {
    let mark = if query.is_empty() { "" } else { "?" };
    let mut parts = uri.clone().into_parts();
    // Parts of what was one.
    parts.path_and_query = PathAndQuery::try_from(format!("{}{mark}{query}", uri.path())).ok();
    Uri::from_parts(parts).unwrap_or_default()
}

/// True for the paths where a token may stand in the query.
fn takes_events(path: &str) -> bool {
    let routes = [ingest::ROUTE, tinybird::ROUTE];
    routes.iter().chain(&cors::STREAM_ROUTES).any(|route| fits(route, path))
}

fn fits(route: &str, path: &str) -> bool {
    let fits = |part: &str, sent: &str| match part.starts_with('{') {
        true => !sent.is_empty(),
        false => part == sent,
    };
    route.split('/').count() == path.split('/').count()
        && route.split('/').zip(path.split('/')).all(|(part, sent)| fits(part, sent))
}

/// Who sends this token in the URL of `request`.
///
/// # Errors
/// `bad_request` where none is taken or another credential is there too, those of a token that is
/// wrong, `foreign_origin`, `forbidden` for a token that can do more than write.
pub(super) async fn identify(
    api: &Api,
    QueryToken { token, is_twice }: QueryToken,
    request: &mut Request,
) -> Result<Principal, Problem> {
    let refused = |detail: &str| Err(Problem::new("bad_request", detail));
    if !api.options.token_in_query {
        return refused(
            "a token in the URL is not taken here: send it in a header, `token: TOKEN` or \
             `Authorization: Bearer TOKEN`, which stands in fewer logs; http.token.in.query = true \
             lets tokens that can only write stand in the URL",
        );
    }
    if is_twice || credentials::presented(request.headers()).is_some() {
        return refused("send one token, in a header or in the URL");
    }
    api.auth.prepare(&token).await;
    let known = api.auth.authenticate(&token);
    let principal = known.map_err(|refusal| auth::unauthorized(&api.auth, refusal))?;
    if !principal.only_writes() {
        auth::count("forbidden");
        let name = principal.name();
        let detail = format!(
            "token {name:?} is not taken from a URL, where others may read it, because it may do more \
             than write events: all its rules must be write or create, of topics or streams"
        );
        return Err(Problem::new("forbidden", detail));
    }
    cors::check(request)?;
    Ok(principal)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    /// What is left of a URI, and the token.
    fn taken(uri: &str) -> (String, Option<(String, bool)>) {
        let mut request = Request::builder().uri(uri).body(Body::empty()).unwrap();
        take(&mut request);
        let token = request.extensions_mut().remove::<QueryToken>();
        (request.uri().to_string(), token.map(|token| (token.token, token.is_twice)))
    }

    #[test]
    fn a_token_is_taken_out_of_the_url_and_nothing_else_is() {
        let some = |token: &str| Some((token.to_owned(), false));
        for (query, rest, token) in [
            ("", "", None),
            ("?", "?", None),
            ("?key=a%26b&ack=durable", "?key=a%26b&ack=durable", None),
            ("?token=floe_a_b", "", some("floe_a_b")),
            ("?token=a&key=%20k", "?key=%20k", some("a")),
            ("?key=k&token=a%2Bb+c&x", "?key=k&x", some("a+b c")),
            ("?%74oke%6E=a", "", some("a")),
            ("?token=", "", None),
            ("?token", "", None),
            ("?token=&token=a", "", some("a")),
            ("?token=a&k=1&token=b", "?k=1", Some(("a".to_owned(), true))),
            ("?Token=a&tokens=b&key=token", "?Token=a&tokens=b&key=token", None),
        ] {
            for path in [
                "/api/v1/topics/t/events",
                "/api/v1/streams/s/events",
                "/data-plane/n/event-stream/s/ingest",
                "/data-plane/n/event-stream/s/ingest/",
                "/v0/events",
            ] {
                let wanted = (format!("{path}{rest}"), token.clone());
                assert_eq!(taken(&format!("{path}{query}")), wanted, "{path}{query}");
            }
        }
        let whole = taken("http://h:1/v0/events?token=a&name=t");
        assert_eq!(whole, ("http://h:1/v0/events?name=t".to_owned(), some("a")));
    }

    #[test]
    fn where_no_events_go_nothing_is_taken() {
        for path in [
            "/",
            "/api/v1/topics",
            "/api/v1/topics//events",
            "/api/v1/topics/t/events/",
            "/api/v1/topics/t/channels/c",
            "/v1/logs",
            "/services/collector",
            "/topics/t",
            "/iceberg/v1/config",
        ] {
            let uri = format!("{path}?token=a");
            assert_eq!(taken(&uri), (uri.clone(), None));
        }
    }
    proptest! {
        /// Whatever stands around it, no token is left, and everything else is as it was.
        #[test]
        fn no_token_is_left_in_any_query(
            pairs in proptest::collection::vec("(to%6ben|token|t%6fken|key|a)(=[a-z%0-9+=]{0,6})?", 0..6),
        ) {
            let query = pairs.join("&");
            let (left, _) = taken(&format!("/v0/events?{query}"));
            let left = left.split_once('?').map_or("", |(_, query)| query);
            prop_assert!(form_urlencoded::parse(left.as_bytes()).all(|(name, _)| name != NAME));
            let others = |query: &str| -> Vec<(String, String)> {
                let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
                pairs.filter(|(name, _)| name != NAME).collect()
            };
            prop_assert_eq!(others(left), others(&query));
        }
    }
}
