//! What is answered instead of a success: a status and one JSON body, made in this file alone; and the extractors that
//! refuse in this way.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use steadfast_actors::{SubmitError, SupervisorError};

use crate::exit::Failure;
use crate::wire::ErrorBody;

/// An answer that is no success. Codes are stable and stand in docs/errors.md.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    body: ErrorBody,
    /// Seconds after which another try makes sense.
    retry_after: Option<u16>,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let body = ErrorBody { code: code.to_owned(), message: message.into(), session_id: None };
        Self { status, body, retry_after: None }
    }

    fn later(self, seconds: u16) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub(super) fn no_token() -> Self {
        let what = "send the token that lies in the state directory: Authorization: Bearer TOKEN";
        Self::new(StatusCode::UNAUTHORIZED, "no-token", what)
    }

    pub(super) fn foreign_host() -> Self {
        let what = "the Host header must name this machine as localhost, a loopback address or the address of the \
                    connection, with the daemon's port; a proxy sends its upstream's address";
        Self::new(StatusCode::FORBIDDEN, "foreign-host", what)
    }

    pub(super) fn foreign_origin() -> Self {
        let what = "the request comes from another site's page: the Origin header must name the daemon's own address";
        Self::new(StatusCode::FORBIDDEN, "foreign-origin", what)
    }

    pub(super) fn too_large(max_bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("a body may have {max_bytes} bytes"))
    }

    pub(super) fn body_too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the body did not arrive in time")
    }

    pub(super) fn body_broken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-body", "the body ended before its end")
    }

    pub(super) fn too_many_watchers(most: usize) -> Self {
        let what = format!("{most} others follow the events, which is all that may");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-watchers", what).later(5)
    }

    pub(super) fn queue_full(most: usize) -> Self {
        let what = format!("{most} sessions wait already; try again when some are done");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "queue-full", what).later(30)
    }

    pub(super) fn not_ready(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", reason).later(10)
    }

    pub(super) fn stuck() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stuck", "the supervisor does not answer")
    }

    pub(super) fn shutting_down() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "steadfast is shutting down").later(5)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            ask_for_token(&mut response);
        }
        response
    }
}

/// RFC 6750, section 3. Nobody stays on the line who was not let in.
pub(super) fn ask_for_token(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"steadfast\""));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::Usage(_) => Self::new(StatusCode::BAD_REQUEST, "usage", message),
            Failure::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not-found", message),
            Failure::Conflict(_) => Self::new(StatusCode::CONFLICT, "conflict", message),
            Failure::Failed(_) | Failure::Code(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message),
        }
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Running { session, .. } | SubmitError::Interrupted { session, .. } => {
                let mut refusal = Self::new(StatusCode::CONFLICT, "already-there", message);
                refusal.body.session_id = Some(session.to_string());
                refusal
            }
            SubmitError::NotSaved(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "not-saved", message),
            SubmitError::ShuttingDown => Self::shutting_down(),
        }
    }
}

impl From<SupervisorError> for Refusal {
    fn from(error: SupervisorError) -> Self {
        let message = error.to_string();
        match error {
            SupervisorError::Unknown(_) => Failure::NotFound(message).into(),
            SupervisorError::NotPossible { .. } => Failure::Conflict(message).into(),
            SupervisorError::Store(_) => Failure::Failed(message).into(),
            SupervisorError::ShuttingDown => Self::shutting_down(),
        }
    }
}

/// No route has this path.
pub(super) async fn no_such_path(uri: Uri) -> Refusal {
    Failure::NotFound(format!("there is nothing at {}; /v1/openapi.json says what there is", uri.path())).into()
}

/// The path has other methods.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let what = format!("{} does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", what)
}

/// A JSON body.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                let what = "the body is to be JSON: Content-Type: application/json";
                Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", what))
            }
            Err(rejection) => Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-body", rejection.body_text())),
        }
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| Failure::Usage(rejection.body_text()).into())
    }
}

/// The name in the path.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|rejection| Failure::Usage(rejection.body_text()).into())
    }
}
