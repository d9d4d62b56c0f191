//! The API's description of itself: OpenAPI 3.1, whose schemas are made from the types that are really sent and read.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Control;
use crate::report::{OutboxReport, Report};
use crate::wire::{
    CheckBody, ErrorBody, Health, LiveBody, PruneDone, RateHistory, Reloaded, ResetBody, ResetDone, StatusBody,
    SubmitBody, Submitted,
};

pub(super) fn routes() -> Router<Arc<Control>> {
    Router::new().route("/v1/openapi.json", get(openapi))
}

static TEXT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(document().to_string()));

async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], TEXT.clone()).into_response()
}

/// What is answered to a success.
enum Answer {
    Json(Value),
    Text(&'static str),
    /// JSON, or a stream of events where that is accepted.
    Story,
    Stream,
}

struct Operation {
    method: &'static str,
    path: &'static str,
    /// Names it for generated clients.
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answer: Answer,
    /// Statuses of refusals beside those that every request can meet.
    refusals: &'static [u16],
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

fn id_in_path() -> Value {
    let what = "A session's id, or the id of an idea, which stands for its newest session";
    json!({ "name": "id", "in": "path", "required": true, "description": what,
            "schema": { "type": "string", "minLength": 1 } })
}

fn last_event_id() -> Value {
    let what = "The last event that the reader has seen; what came after it and is still in memory comes first";
    json!({ "name": "Last-Event-ID", "in": "header", "description": what,
            "schema": { "type": "integer", "minimum": 0 } })
}

fn operations() -> (Vec<Operation>, Map<String, Value>) {
    let (mut sent, mut read) = (generator(Contract::Serialize), generator(Contract::Deserialize));
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
        generator.subschema_for::<T>().into()
    }
    let mut all = Vec::new();
    let mut get = |path, id, summary, parameters: Vec<Value>, answer, refusals| {
        all.push(Operation { method: "get", path, id, summary, parameters, body: None, answer, refusals });
    };
    let limit = json!({ "name": "limit", "in": "query", "description": "At most so many",
                        "schema": { "type": "integer", "minimum": 0 } });
    get("/", "page", "The dashboard; also with ?token=", vec![], Answer::Text("text/html"), &[]);
    get("/healthz", "healthz", "The supervisor answers", vec![], Answer::Json(of::<Health>(&mut sent)), &[503]);
    get("/readyz", "readyz", "Work is taken and begun", vec![], Answer::Json(of::<Health>(&mut sent)), &[503]);
    get("/metrics", "metrics", "For Prometheus", vec![], Answer::Text("text/plain"), &[500, 503]);
    get("/v1/openapi.json", "openapi", "This description", vec![], Answer::Json(json!({ "type": "object" })), &[]);
    get(
        "/v1/status",
        "status",
        "How everything stands",
        vec![],
        Answer::Json(of::<StatusBody>(&mut sent)),
        &[500, 503],
    );
    let sessions = Answer::Json(of::<Vec<Report>>(&mut sent));
    get("/v1/sessions", "sessions", "Sessions, newest first, without their files", vec![limit], sessions, &[400, 500]);
    let report = Answer::Json(of::<Report>(&mut sent));
    get("/v1/sessions/{id}", "session", "One session in full", vec![id_in_path()], report, &[400, 404, 500]);
    let parameters = vec![id_in_path(), last_event_id()];
    let summary = "A session's story; with Accept: text/event-stream as it goes on";
    get("/v1/sessions/{id}/events", "story", summary, parameters, Answer::Story, &[400, 404, 500, 503]);
    let last = json!({ "name": "last", "in": "query", "description": "Of a reader who has seen none: so many of the newest first",
                       "schema": { "type": "integer", "minimum": 0 } });
    get("/v1/events", "events", "All events as they happen", vec![last_event_id(), last], Answer::Stream, &[400, 503]);
    let live = Answer::Json(of::<LiveBody>(&mut sent));
    get("/v1/live", "live", "All that is not over, in one answer", vec![], live, &[500]);
    let history = Answer::Json(of::<RateHistory>(&mut sent));
    get("/v1/rates/history", "rates", "The rates of the last day, by the hour", vec![], history, &[]);
    let entries = Answer::Json(of::<Vec<OutboxReport>>(&mut sent));
    get("/v1/outbox", "outbox", "Issues, closings and alerts, oldest first", vec![], entries, &[500]);
    let check = Answer::Json(of::<CheckBody>(&mut sent));
    get("/v1/store/check", "storeCheck", "Reads and verifies every record", vec![], check, &[500]);
    let mut post = |path, id, summary, parameters: Vec<Value>, body, answer, refusals| {
        let answer = Answer::Json(answer);
        all.push(Operation { method: "post", path, id, summary, parameters, body, answer, refusals });
    };
    let body = Some(of::<SubmitBody>(&mut read));
    let submitted = of::<Submitted>(&mut sent);
    let refusals = &[400, 409, 413, 415, 429, 500, 503];
    post(
        "/v1/sessions",
        "submit",
        "Hands in an idea; durable when answered",
        vec![],
        body,
        submitted.clone(),
        refusals,
    );
    for (path, id, summary) in [
        ("/v1/sessions/{id}/cancel", "cancel", "Stops a session and keeps its branch"),
        ("/v1/sessions/{id}/retry", "retry", "Takes up a failed or cancelled session"),
        ("/v1/sessions/{id}/resume", "resume", "Goes on with an interrupted session; latest: the newest"),
    ] {
        post(path, id, summary, vec![id_in_path()], None, submitted.clone(), &[400, 404, 409, 500, 503]);
    }
    let (body, done) = (Some(of::<ResetBody>(&mut read)), of::<ResetDone>(&mut sent));
    post("/v1/breakers/reset", "reset", "Closes breakers", vec![], body, done, &[400, 404, 413, 415]);
    let entries = of::<Vec<OutboxReport>>(&mut sent);
    post("/v1/outbox/flush", "flush", "Tries what is not delivered now", vec![], None, entries, &[500]);
    let done = of::<PruneDone>(&mut sent);
    post("/v1/prune", "prune", "Applies the retention now", vec![], None, done, &[500]);
    let done = of::<Reloaded>(&mut sent);
    post("/v1/reload", "reload", "Reads the configuration again", vec![], None, done, &[400, 409, 500]);
    of::<ErrorBody>(&mut sent);
    let mut schemas = sent.take_definitions(true);
    schemas.extend(read.take_definitions(true));
    (all, schemas)
}

/// An event: these fields, and those of its kind (docs/operations.md).
fn event() -> Value {
    json!({ "type": "object", "required": ["id", "at", "event"], "additionalProperties": true, "properties": {
        "id": { "type": "integer", "description": "Rises, also over restarts" },
        "at": { "type": "string", "format": "date-time" },
        "event": { "type": "string" },
        "sessionId": { "type": "string" } } })
}

/// What every request can meet: no token, a foreign host; where a body goes along, one that is late or too large.
fn refused(status: u16) -> Value {
    let what = match status {
        400 => "What was sent is wrong",
        401 => "TCP: no token, or a wrong one",
        403 => "TCP: a foreign Host or Origin",
        404 => "Not there",
        405 => "The path takes other methods",
        408 => "The body came too late",
        409 => "It does not go with how things stand",
        413 => "The body is too large",
        415 => "The body is not called JSON",
        429 => "Too much waits already",
        500 => "Something of ours went wrong",
        _ => "Not now",
    };
    json!({ "description": what, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } } })
}

fn described(operation: &Operation) -> Value {
    let json_of = |schema: &Value| json!({ "application/json": { "schema": schema } });
    let stream =
        json!({ "schema": { "type": "string", "description": "Server-sent events; the data of each is an event" } });
    let content = match &operation.answer {
        Answer::Json(schema) => json_of(schema),
        Answer::Text(kind) => json!({ *kind: { "schema": { "type": "string" } } }),
        Answer::Stream => json!({ "text/event-stream": stream }),
        Answer::Story => {
            let mut content = json_of(&json!({ "type": "array", "items": event() }));
            content["text/event-stream"] = stream;
            content
        }
    };
    let mut success = json!({ "description": operation.summary, "content": content });
    if operation.id == "submit" {
        let link = |id: &str| json!({ "operationId": id, "parameters": { "id": "$response.body#/sessionId" } });
        let ids = ["session", "story", "cancel", "retry", "resume"];
        success["links"] = ids.into_iter().map(|id| (id.to_owned(), link(id))).collect::<Map<_, _>>().into();
    }
    let mut responses = Map::from_iter([("200".to_owned(), success)]);
    for status in [401, 403, 408, 413].iter().chain(operation.refusals) {
        responses.insert(status.to_string(), refused(*status));
    }
    if operation.path == "/" {
        // Without the token the page is there all the same, and asks for it.
        responses["401"]["content"] = json!({ "text/html": { "schema": { "type": "string" } } });
    }
    let mut all = json!({ "operationId": operation.id, "summary": operation.summary, "responses": responses });
    if !operation.parameters.is_empty() {
        all["parameters"] = operation.parameters.clone().into();
    }
    if let Some(body) = &operation.body {
        all["requestBody"] = json!({ "required": true, "content": json_of(body) });
    }
    all
}

/// The whole description.
fn document() -> Value {
    let (operations, schemas) = operations();
    let mut paths = Map::new();
    for operation in &operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    let about = "On the daemon's control socket, and on TCP for whoever has the token of its state directory.";
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Steadfast", "version": env!("CARGO_PKG_VERSION"), "description": about },
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{ "token": [] }]
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Methods and paths of the calls of `route` in a source.
    fn routed(source: &str) -> impl Iterator<Item = (String, String)> {
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        source.split(".route(").skip(1).flat_map(|rest| {
            let path = rest.split('"').nth(1).unwrap_or_default().to_owned();
            let handlers = rest.split(".route(").next().unwrap_or_default().split('\n').next().unwrap_or_default();
            let handlers = handlers.split_once(&path).map_or("", |(_, rest)| rest).to_owned();
            ["get", "post", "put", "delete", "patch"]
                .into_iter()
                .filter(move |method| handlers.contains(&format!("{method}(")))
                .map(move |method| (method.to_owned(), path.clone()))
        })
    }

    #[test]
    fn every_route_is_described_and_everything_described_is_a_route() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = vec![folder.join("control.rs")];
        sources.extend(std::fs::read_dir(folder.join("control")).unwrap().map(|entry| entry.unwrap().path()));
        let text = |path| std::fs::read_to_string(path).unwrap();
        let routes: BTreeSet<(String, String)> =
            sources.into_iter().flat_map(|path| routed(&text(path)).collect::<Vec<_>>()).collect();
        let described: BTreeSet<(String, String)> =
            operations().0.iter().map(|one| (one.method.to_owned(), one.path.to_owned())).collect();
        assert!(routes.len() > 15, "{routes:?}");
        assert_eq!(described, routes);
    }

    #[test]
    fn every_reference_leads_to_a_schema_and_ids_are_unique() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            let name = name.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{name}"));
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        let (operations, _) = operations();
        let ids: BTreeSet<&str> = operations.iter().map(|one| one.id).collect();
        assert_eq!(ids.len(), operations.len());
    }
}
