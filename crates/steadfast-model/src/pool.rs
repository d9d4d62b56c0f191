//! The connections of this process: one pool for each kind of address, made when it is first needed.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect, retry};

/// The longest wait for a connection. Where nothing answers within it, a longer wait would not help: TCP has sent its
/// first packet four times by then.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// uvicorn and Node close a connection that was idle for 5 s: ours go before, so that no request meets the closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Finds a peer that is gone during a long call.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What an address needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// `http:` on this machine: neither certificates nor a proxy.
    Loopback,
    /// `http:` elsewhere: no certificates.
    Plain,
    /// `https:`: the system's root certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` take their place).
    Tls,
}

impl Reach {
    pub(crate) fn of(url: &Url) -> Self {
        if url.scheme() == "https" {
            return Self::Tls;
        }
        let host = url.host_str().unwrap_or("");
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match address.map_or(host == "localhost", |address| address.is_loopback()) {
            true => Self::Loopback,
            false => Self::Plain,
        }
    }
}

/// Whether a connection serves further calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    Kept,
    /// For servers that close a connection although they promised to keep it: a call that is sent meanwhile is lost.
    Never,
}

/// The pool for addresses of this kind. Reading the root certificates takes milliseconds and blocks, so the first caller
/// of [`Reach::Tls`] has it done on a thread for blocking work.
///
/// # Errors
/// What reqwest says when it cannot use the certificates of this system.
pub(crate) async fn client(reach: Reach, reuse: Reuse) -> Result<Client, String> {
    type Pool = OnceLock<Result<Client, String>>;
    static POOLS: [[Pool; 2]; 3] = [const { [const { OnceLock::new() }; 2] }; 3];
    let pool = &POOLS[reach as usize][reuse as usize];
    if reach == Reach::Tls && pool.get().is_none() {
        let built = tokio::task::spawn_blocking(move || pool.get_or_init(|| build(reach, reuse)).clone()).await;
        return built.map_err(|panic| panic.to_string())?;
    }
    pool.get_or_init(|| build(reach, reuse)).clone()
}

fn build(reach: Reach, reuse: Reuse) -> Result<Client, String> {
    let builder = Client::builder()
        .user_agent(concat!("steadfast/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // Whether a call is made again is decided elsewhere.
        .retry(retry::never())
        // One call, one connection: with HTTP/2 one that breaks would take every call to that host with it.
        .http1_only()
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .dns_resolver(Arc::new(SystemResolver));
    let builder = match reuse {
        Reuse::Kept => builder,
        Reuse::Never => builder.pool_max_idle_per_host(0),
    };
    let builder = match reach {
        Reach::Loopback => builder.no_proxy().tls_built_in_root_certs(false),
        Reach::Plain => builder.tls_built_in_root_certs(false),
        Reach::Tls => builder,
    };
    builder.build().map_err(|error| crate::transport::root_cause(&error))
}

/// The system's resolver. Of our own only so that its failures carry a type: [`ResolveError`].
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(addresses) => Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs),
                Err(error) => Err(Box::new(ResolveError(error)) as Box<dyn Error + Send + Sync>),
            }
        })
    }
}

/// A host's name could not be turned into an address.
#[derive(Debug)]
pub(crate) struct ResolveError(pub(crate) io::Error);

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ResolveError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_this_machine_goes_without_a_proxy() {
        for (url, reach) in [
            ("http://127.0.0.1:80/v1", Reach::Loopback),
            ("http://127.9.9.9/", Reach::Loopback),
            ("http://[::1]:8080/v1", Reach::Loopback),
            ("http://localhost:11434/v1", Reach::Loopback),
            ("http://10.0.0.1/v1", Reach::Plain),
            ("http://gpu-box/v1", Reach::Plain),
            ("https://localhost/v1", Reach::Tls),
            ("https://api.example.com/v1", Reach::Tls),
        ] {
            assert_eq!(Reach::of(&Url::parse(url).unwrap()), reach, "{url}");
        }
    }
}
