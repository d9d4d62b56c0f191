//! Who is let in over TCP (SPEC 9): whoever knows the token, and no page of another site that a browser on this machine shows.
//!
//! A page of another site can have a browser send requests here, also, with a name of its own that resolves to this machine
//! (DNS rebinding), read the answers. It cannot forge `Host` and `Origin`, so these are looked at first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use ring::digest::{Digest, SHA256, digest};

use super::refusal::{Refusal, ask_for_token};
use crate::page;

/// The daemon's own end of the connection that a request came over.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnEnd(pub(super) SocketAddr);

/// Lets in whoever knows a token.
pub(super) struct Door {
    /// Hashes are compared, so that the time it takes says nothing about the token.
    token: Digest,
}

impl Door {
    pub(super) fn new(token: &str) -> Self {
        Self { token: digest(&SHA256, token.as_bytes()) }
    }

    fn opens_to(&self, token: &str) -> bool {
        digest(&SHA256, token.as_bytes()).as_ref() == self.token.as_ref()
    }
}

/// Lets a request through to the routes, or not.
pub(super) async fn check(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let own = request.extensions().get::<OwnEnd>().map(|own| own.0);
    // A connection whose own end is not known has been cut already.
    let Some(own) = own else { return Refusal::foreign_host().into_response() };
    let (uri, headers) = (request.uri(), request.headers());
    let host = only(headers, &HOST);
    let target = uri.authority().map(|authority| authority.as_str());
    if !host.is_some_and(|host| is_own(host, own)) || !target.is_none_or(|target| is_own(target, own)) {
        return Refusal::foreign_host().into_response();
    }
    if headers.contains_key(ORIGIN) {
        let origin = only(headers, &ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        if !origin.is_some_and(|origin| is_own(origin, own)) {
            return Refusal::foreign_origin().into_response();
        }
    }
    let is_page = uri.path() == "/" && matches!(*request.method(), Method::GET | Method::HEAD);
    // A person opens an address; nothing else is reached by one.
    let in_query = is_page.then(|| in_query(uri.query().unwrap_or_default())).flatten();
    let token = only(headers, &AUTHORIZATION).and_then(bearer).or(in_query);
    if token.is_some_and(|token| door.opens_to(token)) {
        return next.run(request).await;
    }
    if is_page {
        // It holds no data, and asks for the token itself.
        let mut response = page::answer(StatusCode::UNAUTHORIZED);
        ask_for_token(&mut response);
        return response;
    }
    Refusal::no_token().into_response()
}

/// The header's value where it is there once and is text.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok()).flatten()
}

/// RFC 6750, section 2.1; the scheme in any case (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn in_query(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("token="))
}

/// Whether a host and port stand for the daemon: a loopback name or address, or the address that the client connected to,
/// which no name of another site can pretend to be. `own`: our end of the connection.
fn is_own(authority: &str, own: SocketAddr) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return false,
        },
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_our_port = port.map_or(own.port() == 80, |port| port.parse() == Ok(own.port()));
    let is_our_host = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip == own.ip().to_canonical());
    is_our_port && is_our_host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_name_or_the_address_of_the_connection_with_our_port_is_our_host() {
        let own: SocketAddr = "127.0.0.1:7070".parse().unwrap();
        for ours in ["127.0.0.1:7070", "localhost:7070", "LOCALHOST:7070", "[::1]:7070", "127.0.0.2:7070"] {
            assert!(is_own(ours, own), "{ours}");
        }
        let foreign = [
            "",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:7071",
            "example.org:7070",
            "127.0.0.1.example.org:7070",
            "localhost.example.org:7070",
            "localhost:7070:7070",
            "[::1]7070",
            "[::1",
            "10.0.0.1:7070",
            "user@127.0.0.1:7070",
            "0.0.0.0:7070",
            "localhost.:7070",
            "127.0.0.1:7070/",
            "2130706433:7070",
            "127.0.0.1:+7070x",
        ];
        for foreign in foreign {
            assert!(!is_own(foreign, own), "{foreign}");
        }
    }

    #[test]
    fn a_machine_that_is_reached_from_others_is_known_by_the_address_of_the_connection() {
        let own: SocketAddr = "[::ffff:192.0.2.7]:80".parse().unwrap();
        assert!(is_own("192.0.2.7", own) && is_own("192.0.2.7:80", own));
        assert!(!is_own("192.0.2.8:80", own) && !is_own("example.org", own));
    }

    #[test]
    fn a_token_is_taken_from_a_bearer_header_and_nothing_like_it() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
        let door = Door::new("abc");
        assert!(door.opens_to("abc"));
        for wrong in ["", "ab", "abcd", "abd", "ABC"] {
            assert!(!door.opens_to(wrong), "{wrong}");
        }
        assert_eq!(in_query("a=b&token=x"), Some("x"));
        assert_eq!(in_query("tokens=x"), None);
    }
}
