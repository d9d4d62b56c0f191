//! The dashboard page: one static file that holds no data and fetches it with the token.
//!
//! Its inline scripts and styles are allowed by their hashes, so that nothing that a model wrote can become a script. Handlers
//! and styles in attributes are therefore never run: the page adds listeners and classes.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

const PAGE: &str = include_str!("page/index.html");

static POLICY: LazyLock<HeaderValue> =
    LazyLock::new(|| HeaderValue::from_str(&policy(PAGE)).expect("hashes and words of ours are visible ASCII"));

/// The page, with this status.
pub(crate) fn answer(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from(PAGE));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// Content Security Policy, level 3: nothing but what stands in this page, and requests to where it came from.
fn policy(page: &str) -> String {
    let (scripts, styles) = (hashes(page, "script"), hashes(page, "style"));
    format!(
        "default-src 'none'; script-src {scripts}; style-src {styles}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The sources that allow the page's elements of this name; `'none'` where there are none.
fn hashes(page: &str, element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inner = page.split(&open).skip(1).filter_map(|rest| rest.split(&close).next());
    let sources: Vec<String> =
        inner.map(|text| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())))).collect();
    if sources.is_empty() { "'none'".to_owned() } else { sources.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inline_script_and_style_is_allowed_by_its_hash_and_nothing_else_is() {
        // The hash is the one that `printf 'go()' | openssl dgst -sha256 -binary | base64` gives.
        let page = "<style>p{}</style><script>go()</script><script>go()</script>";
        let hash = "'sha256-5KYv+PUboo5h+0+YAtGRPbwv5d/QxzHslP4YGnUaxRw='";
        let policy = policy(page);
        assert!(policy.contains(&format!("script-src {hash} {hash};")), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(hashes("<p>", "script") == "'none'");
    }

    /// What the policy would forbid, or would let out, has no place in the page.
    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for forbidden in
            ["<script ", "<style ", " style=\"", " onclick=", " src=\"http", "href=\"http", "@import", "eval("]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(PAGE.len() < 100 << 10, "one request under 100 KiB");
    }
}
