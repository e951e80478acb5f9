//! `POST /oauth/token`, and the same for the Iceberg catalog's clients at
//! `/iceberg/v1/oauth/tokens`: OAuth 2 client credentials (RFC 6749, section 4.4).
//!
//! The client's secret is a token, its id that token's name or id. The answer is flat text and
//! numbers, for Kafka Connect's HTTP sinks read it as a map of strings. The access token holds for
//! `auth.access.token.lifetime` and is written nowhere; when it is over the answer is 401, at which
//! connectors renew it. Iceberg's Java client renews by token exchange (RFC 8693) with its
//! credentials in the header: that is answered with a new access token for those, whatever the old
//! one was.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::auth::{Access, Auth, Principal};
use crate::http::credentials::{self, Basic};
use crate::http::{Api, problem::Problem};

const CLIENT_CREDENTIALS: &str = "client_credentials";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Most fields of a form.
const FIELDS_MAX: usize = 100;

/// What a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) grant_type: String,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// An error as RFC 6749 (section 5.2) names it, and why.
type Refused = (&'static str, &'static str);

pub(super) async fn token(State(api): State<Api>, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(draining) = api.draining() {
        return Problem::into_response(draining);
    }
    let basic = credentials::basic(&headers);
    let granted = form(&body).and_then(|form| Ok((grant(&api.auth, &form, basic)?, form)));
    let mut response = match granted {
        Ok(((access, scope), form)) => {
            let mut answer = json!({
                "access_token": access.text,
                "token_type": "Bearer",
                "expires_in": access.expires_in_s,
                "scope": scope,
            });
            if form.grant_type == TOKEN_EXCHANGE {
                answer["issued_token_type"] = ACCESS_TOKEN.into();
            }
            Json(answer).into_response()
        }
        Err((error, description)) => refusal(error, description),
    };
    // Source: RFC 6749, section 5.1.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Takes the body apart; every field stands once (RFC 6749, section 3.2).
pub(crate) fn form(body: &[u8]) -> Result<Form, Refused> {
    let invalid = ("invalid_request", "the body must be a form with each field once");
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(body).map_err(|_| invalid)?;
    if pairs.len() > FIELDS_MAX {
        return Err(invalid);
    }
    let mut form = Form::default();
    let mut grant_type = None;
    for (name, value) in pairs {
        let field = match name.as_str() {
            "grant_type" => &mut grant_type,
            "client_id" => &mut form.client_id,
            "client_secret" => &mut form.client_secret,
            _ => continue,
        };
        if field.replace(value).is_some() {
            return Err(invalid);
        }
    }
    form.grant_type = grant_type.ok_or(("invalid_request", "grant_type is missing"))?;
    Ok(form)
}

/// The access token and what it may do.
fn grant(auth: &Auth, form: &Form, basic: Option<Basic>) -> Result<(Access, String), Refused> {
    if ![CLIENT_CREDENTIALS, TOKEN_EXCHANGE].contains(&form.grant_type.as_str()) {
        return Err(("unsupported_grant_type", "only client_credentials is supported"));
    }
    let unknown = ("invalid_client", "the client's secret must be a token of this server");
    let (client, secret) = match basic {
        Some(Basic { user, password }) => (decoded(&user), decoded(&password)),
        None => {
            let secret = form.client_secret.clone().ok_or((
                "invalid_client",
                "send client_id and client_secret in the form or as Authorization: Basic",
            ))?;
            (form.client_id.clone().unwrap_or_default(), secret)
        }
    };
    let principal = auth.authenticate(&secret).map_err(|_| unknown)?;
    if !is_client(&principal, &client) {
        return Err(("invalid_client", "the client's id must be the name or the id of its token"));
    }
    let rules = principal.token().map(|token| token.rules.texts().join(" ")).unwrap_or_default();
    let access = auth.issue(&principal).ok_or(unknown)?;
    Ok((access, if rules.is_empty() { "all".to_owned() } else { rules }))
}

fn is_client(principal: &Principal, client: &str) -> bool {
    let is_own =
        |token: &std::sync::Arc<crate::auth::Token>| token.name == client || token.id == client;
    client.is_empty() || client == "token" || principal.token().is_some_and(is_own)
}

/// Credentials in the header are encoded as in a form (RFC 6749, section 2.3.1).
fn decoded(text: &str) -> String {
    let form = format!("v={}", text.replace('&', "%26"));
    let pairs: Result<Vec<(String, String)>, _> = serde_urlencoded::from_str(&form);
    match pairs.as_deref() {
        Ok([(_, value)]) => value.clone(),
        _ => text.to_owned(),
    }
}

fn refusal(error: &str, description: &str) -> Response {
    let body = Json(json!({ "error": error, "error_description": description }));
    if error != "invalid_client" {
        return (StatusCode::BAD_REQUEST, body).into_response();
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"floe\"")];
    (StatusCode::UNAUTHORIZED, challenge, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_taken_apart_and_say_each_thing_once() {
        let body = b"grant_type=client_credentials&client_id=a%40b&client_secret=s&scope=catalog";
        let found = form(body).unwrap();
        assert_eq!(found.grant_type, CLIENT_CREDENTIALS);
        assert_eq!(found.client_id.as_deref(), Some("a@b"));
        assert_eq!(found.client_secret.as_deref(), Some("s"));
        for bad in [&b""[..], b"client_id=a", b"grant_type=a&grant_type=b", b"\xff"] {
            assert_eq!(form(bad).unwrap_err().0, "invalid_request", "{bad:?}");
        }
        assert!(form(&b"a=b&".repeat(FIELDS_MAX + 1)).is_err());
    }

    #[test]
    fn credentials_in_the_header_are_decoded() {
        assert_eq!(decoded("a%40b"), "a@b");
        assert_eq!(decoded("floe_x_y"), "floe_x_y");
        assert_eq!(decoded("a&b"), "a&b");
    }
}
