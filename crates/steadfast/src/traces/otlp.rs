//! OTLP over HTTP in its JSON form (OTLP specification 1.x, "JSON Protobuf Encoding"; opentelemetry-proto `trace.proto`).

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use serde_json::{Value, json};

use super::spans::{Fact, Span};
use crate::exit::Failure;

/// One request with its answer. The SDKs' default (`OTEL_EXPORTER_OTLP_TIMEOUT`).
const TIMEOUT: Duration = Duration::from_secs(10);
/// The schema of the attributes' names: the first one with `gen_ai.provider.name`.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// A collector.
#[derive(Clone)]
pub(crate) struct Target {
    url: Url,
    headers: HeaderMap,
    service: String,
}

impl Target {
    /// As `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` says, with their `…_HEADERS`,
    /// `OTEL_SERVICE_NAME` and `OTEL_SDK_DISABLED` (OpenTelemetry specification, "OTLP Exporter" and "Environment
    /// Variables"). `None`: nobody wants traces.
    pub(crate) fn of_environment() -> Result<Option<Self>, Failure> {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let (own, common) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let (name, text, path) = match (variable(own), variable(common)) {
            (Some(text), _) => (own, text, &[][..]),
            (None, Some(text)) => (common, text, &["v1", "traces"][..]),
            (None, None) => return Ok(None),
        };
        let url = Url::parse(text.trim()).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        // It may hold a password, so it is not repeated.
        let mut url = url.ok_or_else(|| {
            Failure::Usage(format!("{name} is no address: write http://HOST:4318, or unset it to have no traces"))
        })?;
        if let Ok(mut segments) = url.path_segments_mut()
            && !path.is_empty()
        {
            segments.pop_if_empty().extend(path);
        }
        let mut headers = HeaderMap::new();
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            for (key, value) in
                variable(name).iter().flat_map(|text| text.split(',')).filter_map(|one| one.split_once('='))
            {
                let value = percent_decoded(value.trim());
                let header = (HeaderName::try_from(key.trim()), HeaderValue::try_from(value));
                let (Ok(key), Ok(mut value)) = header else {
                    return Err(Failure::Usage(format!(
                        "{name} holds what cannot be a header: write name=value,name=value"
                    )));
                };
                value.set_sensitive(true);
                headers.insert(key, value);
            }
        }
        let service = variable("OTEL_SERVICE_NAME").unwrap_or_else(|| "steadfast".to_owned());
        Ok(Some(Self { url, headers, service }))
    }

    pub(super) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Answers why it did not work, without the address, which may be a secret.
    pub(super) async fn send(&self, spans: &[Span]) -> Result<(), String> {
        let client = self.client().await?;
        let body = self.request(spans).to_string();
        let request = client.post(self.url.clone()).headers(self.headers.clone());
        let sent = request.header("content-type", "application/json").body(body).send().await;
        let status = sent.map_err(|error| steadfast_actors::chain(&error.without_url()))?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the collector answers {status}")) }
    }

    /// Made once; the root certificates are read on a thread for blocking work.
    async fn client(&self) -> Result<Client, String> {
        static CLIENT: tokio::sync::OnceCell<Client> = tokio::sync::OnceCell::const_new();
        let is_tls = self.url.scheme() == "https";
        let build = || async {
            let build = move || {
                let builder =
                    Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).http1_only();
                builder.tls_built_in_root_certs(is_tls).build()
            };
            let built = tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())?;
            built.map_err(|error| error.to_string())
        };
        CLIENT.get_or_try_init(build).await.cloned()
    }

    /// An `ExportTraceServiceRequest`.
    fn request(&self, spans: &[Span]) -> Value {
        let version = env!("CARGO_PKG_VERSION");
        let resource =
            [("service.name", Fact::Text(self.service.clone())), ("service.version", Fact::Text(version.to_owned()))];
        json!({ "resourceSpans": [{
            "resource": { "attributes": resource.iter().map(|(name, fact)| attribute(name, fact)).collect::<Vec<_>>() },
            "scopeSpans": [{
                "scope": { "name": "steadfast", "version": version },
                "spans": spans.iter().map(encoded).collect::<Vec<_>>(),
                "schemaUrl": SCHEMA,
            }],
            "schemaUrl": SCHEMA,
        }] })
    }
}

fn encoded(span: &Span) -> Value {
    // Ids are hexadecimal here, unlike other bytes in JSON; numbers of 64 bits are texts.
    let mut value = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "name": span.name,
        // SPAN_KIND_CLIENT, SPAN_KIND_INTERNAL
        "kind": if span.is_call { 3 } else { 1 },
        "startTimeUnixNano": span.start.as_nanos().to_string(),
        "endTimeUnixNano": span.end.as_nanos().to_string(),
        "attributes": span.facts.iter().map(|(name, fact)| attribute(name, fact)).collect::<Vec<_>>(),
    });
    if let Some(parent) = span.parent {
        value["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(error) = &span.error {
        // STATUS_CODE_ERROR
        value["status"] = json!({ "code": 2, "message": error });
    }
    value
}

fn attribute(name: &str, fact: &Fact) -> Value {
    let value = match fact {
        Fact::Text(text) => json!({ "stringValue": text }),
        Fact::Number(number) => json!({ "intValue": number.to_string() }),
        Fact::Flag(flag) => json!({ "boolValue": flag }),
    };
    json!({ "key": name, "value": value })
}

/// The headers' values are written as in W3C Baggage.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(variables: &[(&str, &str)]) -> Result<Option<Target>, Failure> {
        Target::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_standard_variables_say_where_traces_go() {
        assert!(target(&[]).unwrap().is_none());
        let common = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318/otlp/");
        assert!(target(&[common, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap().is_none());
        assert_eq!(target(&[common]).unwrap().unwrap().url.as_str(), "http://h:4318/otlp/v1/traces");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x");
        let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20YQ==, x-a=1");
        let both = target(&[common, own, headers]).unwrap().unwrap();
        assert_eq!((both.url.as_str(), both.service.as_str()), ("https://t/x", "steadfast"));
        assert!(both.headers["authorization"] == "Basic YQ==" && both.headers["x-a"] == "1");
        for wrong in [("OTEL_EXPORTER_OTLP_ENDPOINT", "h:4318"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://h")] {
            assert!(target(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(target(&[common, ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c")]).is_err());
    }
}
