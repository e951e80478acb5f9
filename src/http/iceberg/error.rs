//! The error model of the Iceberg REST specification (`ErrorModel`).

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::table::catalog::Error;

/// A refusal with its code, its type as clients know it, and what to do in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    code: StatusCode,
    kind: &'static str,
    message: String,
}

impl Failure {
    fn new(code: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { code, kind, message: message.into() }
    }

    /// A refusal that came before the route was asked.
    pub(super) fn before(code: StatusCode, message: &str) -> Self {
        let kind = match code {
            StatusCode::UNAUTHORIZED => "NotAuthorizedException",
            StatusCode::FORBIDDEN => "ForbiddenException",
            code if code.is_client_error() => "BadRequestException",
            _ => "ServiceUnavailableException",
        };
        Self::new(code, kind, message)
    }

    /// The token lacks a rule.
    pub(super) fn forbidden(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "ForbiddenException", message)
    }

    /// The request is malformed or can never succeed.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestException", message)
    }

    /// The request contradicts itself.
    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "UnprocessableEntityException", message)
    }

    /// The catalog does not do such things.
    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "UnsupportedOperationException", message)
    }

    /// No such view: there are none.
    pub(super) fn no_such_view(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NoSuchViewException",
            format!("view {name} does not exist"),
        )
    }

    /// The answer to paths that are no route.
    pub(super) async fn no_such_route(method: Method, uri: Uri) -> Self {
        let message = format!("there is no route {method} {}", uri.path());
        Self::new(StatusCode::NOT_FOUND, "NotFoundException", message)
    }

    /// The answer where another catalog keeps the tables.
    pub(super) fn elsewhere(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFoundException", message)
    }

    /// The answer to methods that a route does not have.
    pub(super) async fn no_such_method(method: Method, uri: Uri) -> Self {
        let message = format!("{} has no method {method}", uri.path());
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UnsupportedOperationException", message)
    }

    /// A panic or the end of the process while a request was read or answered; nothing was
    /// changed by then.
    pub(super) fn internal(error: &tokio::task::JoinError) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            format!("cannot process the request: {error}"),
        )
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let (code, kind) = match error {
            Error::Conflict(_) => (StatusCode::CONFLICT, "CommitFailedException"),
            // Clients take 500 for "it may have happened": they look before they try again.
            Error::Unknown(_) => (StatusCode::INTERNAL_SERVER_ERROR, "CommitStateUnknownException"),
            Error::NoSuchTable(_) => (StatusCode::NOT_FOUND, "NoSuchTableException"),
            Error::NoSuchNamespace(_) => (StatusCode::NOT_FOUND, "NoSuchNamespaceException"),
            Error::Exists(_) => (StatusCode::CONFLICT, "AlreadyExistsException"),
            Error::NotEmpty(_) => (StatusCode::CONFLICT, "NamespaceNotEmptyException"),
            Error::Invalid(_) => (StatusCode::BAD_REQUEST, "BadRequestException"),
            Error::Storage(_) | Error::Unavailable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException")
            }
        };
        Self { code, kind, message }
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            code @ StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(code, "BadRequestException", rejection.body_text())
            }
            _ => Self::bad_request(rejection.body_text()),
        }
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { code, kind, message } = self;
        if code.is_server_error() {
            tracing::warn!(code = code.as_u16(), kind, message, "catalog request failed");
        }
        let model = json!({ "message": message, "type": kind, "code": code.as_u16() });
        let mut response = (code, Json(json!({ "error": model }))).into_response();
        if code == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_says_when_to_come_back() {
        for (error, waits) in [
            (Error::Unavailable("d".to_owned()), true),
            (Error::Storage("d".to_owned()), true),
            (Error::Conflict("d".to_owned()), false),
        ] {
            let answer = Failure::from(error).into_response();
            assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), waits, "{answer:?}");
        }
    }
}
