//! What it means when no response came or its body broke off.

use std::error::Error;
use std::io::{self, ErrorKind};

use steadfast_core::fault::{Fault, NetworkFault};

use crate::pool::ResolveError;

/// The row of SPEC 4's table for an error on the way, found by the types in its chain of causes.
///
/// What is not told apart is [`Fault::Unavailable`]: refused, reset, closed before the answer was whole, no connection
/// within the time for one, garbage in place of HTTP or TLS.
pub(crate) fn classify(error: &(dyn Error + 'static)) -> Fault {
    causes(error).find_map(known).unwrap_or(Fault::Unavailable)
}

/// The innermost cause as text. The outer ones repeat it or hold the address with its query.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

fn known(error: &(dyn Error + 'static)) -> Option<Fault> {
    if let Some(ResolveError(error)) = error.downcast_ref() {
        return Some(Fault::Network(resolver_fault(&error.to_string())));
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return is_certificate_fault(error).then_some(Fault::Tls);
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::NetworkDown => {
            Some(Fault::Network(NetworkFault::Unreachable))
        }
        _ => None,
    }
}

fn is_certificate_fault(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType
            | rustls::Error::InvalidCertRevocationList(_)
    )
}

/// `getaddrinfo` has error numbers, but the standard library passes on only its words (glibc's, musl's, macOS's). A word
/// that is not known counts as the resolver's failure: that accuses no host.
fn resolver_fault(words: &str) -> NetworkFault {
    let no_such_host = ["not known", "No address associated", "does not resolve", "Name has no usable address"];
    match no_such_host.iter().any(|known| words.contains(known)) {
        true => NetworkFault::NoSuchHost,
        false => NetworkFault::ResolverDown,
    }
}

/// An error and all its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // `source` of an `io::Error` skips the error that it wraps; that one may be the one that is looked for.
        if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return Some(inner as &(dyn Error + 'static));
        }
        error.source()
    })
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_refused_certificate_is_found_deep_in_the_chain() {
        let refused = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let error = Outer(io::Error::other(Outer(io::Error::new(ErrorKind::InvalidData, refused))));
        assert_eq!(classify(&error), Fault::Tls);
        assert!(root_cause(&error).contains("Expired"), "{}", root_cause(&error));
        let garbage = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(classify(&Outer(io::Error::other(garbage))), Fault::Unavailable);
    }

    #[test]
    fn a_failed_look_up_tells_a_missing_host_from_a_missing_resolver() {
        let look_up = |words: &str| {
            let error = io::Error::other(format!("failed to lookup address information: {words}"));
            classify(&Outer(io::Error::other(ResolveError(error))))
        };
        for words in ["Name or service not known", "No address associated with hostname", "Name does not resolve"] {
            assert_eq!(look_up(words), Fault::Network(NetworkFault::NoSuchHost), "{words}");
        }
        for words in ["Temporary failure in name resolution", "Try again", "Non-recoverable failure", "Device busy"] {
            assert_eq!(look_up(words), Fault::Network(NetworkFault::ResolverDown), "{words}");
        }
    }

    #[test]
    fn no_route_is_the_networks_fault_and_a_refusal_is_the_hosts() {
        for kind in [ErrorKind::NetworkUnreachable, ErrorKind::HostUnreachable, ErrorKind::NetworkDown] {
            assert_eq!(classify(&Outer(kind.into())), Fault::Network(NetworkFault::Unreachable));
        }
        for kind in [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof] {
            assert_eq!(classify(&Outer(kind.into())), Fault::Unavailable);
        }
    }
}
