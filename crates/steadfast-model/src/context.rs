//! What a call is for, as headers and as environment variables (SPEC 12).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::call::CallContext;

/// Everything but RFC 3986's unreserved characters and the slash, which separates a path's parts as it stands.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Header, variable and value of all that is known; the value is visible ASCII in the header's form.
fn values(context: &CallContext) -> impl Iterator<Item = (&'static str, &'static str, String)> {
    let file = context.file.as_ref().map(|file| utf8_percent_encode(file.as_str(), PATH).to_string());
    [
        ("x-steadfast-role", "STEADFAST_ROLE", Some(context.role.as_str().to_owned())),
        ("x-steadfast-session", "STEADFAST_SESSION", Some(context.session.as_str().to_owned())),
        ("x-steadfast-idea", "STEADFAST_IDEA", Some(context.idea.as_str().to_owned())),
        ("x-steadfast-milestone", "STEADFAST_MILESTONE", context.milestone.map(|number| number.to_string())),
        ("x-steadfast-file", "STEADFAST_FILE", file),
        ("x-steadfast-attempt", "STEADFAST_ATTEMPT", Some(context.attempt.to_string())),
        ("x-steadfast-attempt-id", "STEADFAST_ATTEMPT_ID", Some(context.id.to_string())),
    ]
    .into_iter()
    .filter_map(|(header, variable, value)| Some((header, variable, value?)))
}

/// W3C Trace Context, level 1: version, the session's trace, the attempt's span, and that both are recorded.
fn traceparent(context: &CallContext) -> String {
    format!("00-{:032x}-{}-01", context.session.trace_id(), context.id)
}

/// Adds the headers to those of the provider; `traced`: with `traceparent`.
pub(crate) fn add_headers(headers: &mut HeaderMap, context: &CallContext, traced: bool) {
    let traceparent = traced.then(|| ("traceparent", "", traceparent(context)));
    for (header, _, value) in values(context).chain(traceparent) {
        // Ids, numbers and percent-encoded paths are visible ASCII, so nothing is left out here.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(header), value);
        }
    }
}

/// Variables for a command. The file stands there as it is, not percent-encoded: a variable can hold it.
pub(crate) fn variables(context: &CallContext) -> Vec<(&'static str, String)> {
    let mut variables: Vec<_> = values(context).map(|(_, variable, value)| (variable, value)).collect();
    for (variable, value) in &mut variables {
        if let ("STEADFAST_FILE", Some(file)) = (*variable, &context.file) {
            file.as_str().clone_into(value);
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use steadfast_core::ids::{AttemptId, IdeaId, RepoPath, Role, SessionId};

    use super::*;

    fn context(file: Option<&str>) -> CallContext {
        CallContext {
            role: Role::Coder,
            session: SessionId::new(0, 0),
            idea: IdeaId::new("002-feature").unwrap(),
            milestone: Some(2),
            file: file.map(|file| RepoPath::new(file).unwrap()),
            attempt: 3,
            id: AttemptId::new(0xa1b2),
        }
    }

    #[test]
    fn a_path_is_percent_encoded_in_a_header_and_plain_in_a_variable() {
        let context = context(Some("src/a b/ä%.rs"));
        let mut headers = HeaderMap::new();
        add_headers(&mut headers, &context, true);
        assert_eq!(headers["x-steadfast-file"], "src/a%20b/%C3%A4%25.rs");
        assert_eq!(headers["x-steadfast-role"], "coder");
        assert_eq!(headers["x-steadfast-milestone"], "2");
        assert_eq!(headers["x-steadfast-attempt"], "3");
        assert_eq!(headers["x-steadfast-attempt-id"], "000000000000a1b2");
        let trace = format!("{:032x}", context.session.trace_id());
        assert_eq!(headers["traceparent"], format!("00-{trace}-000000000000a1b2-01"));
        assert!(variables(&context).contains(&("STEADFAST_FILE", "src/a b/ä%.rs".to_owned())));
    }

    #[test]
    fn what_is_not_known_is_not_sent() {
        let mut headers = HeaderMap::new();
        add_headers(&mut headers, &CallContext { milestone: None, ..context(None) }, false);
        assert!(!headers.contains_key("traceparent"));
        assert!(!headers.contains_key("x-steadfast-file") && !headers.contains_key("x-steadfast-milestone"));
    }
}
