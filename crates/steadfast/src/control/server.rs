//! Listens on the control socket and on TCP, and bounds what a client can take: connections, heads, time.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use steadfast_config::Listen;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::door::{Door, OwnEnd};
use super::{Control, router, token};
use crate::exit::{Failure, failed};

/// Connections of one listener. What comes beyond waits to be accepted. Each is an open file, of which a process has 1024
/// where nobody allows more, and the store and the repositories must never be short of them.
const MAX_CONNECTIONS: usize = 320;
/// How long a request's head may take, and how long a connection may rest between two requests.
const HEAD_AT_MOST: Duration = Duration::from_secs(10);
/// The largest head of a request.
const MAX_HEAD: usize = 64 << 10;
/// The port of `listen = "auto"`.
const USUAL_PORT: u16 = 7070;

/// Listens on TCP, and does not answer yet.
pub(crate) struct Http {
    listener: TcpListener,
    address: SocketAddr,
    token: String,
}

impl Http {
    /// As configured; `None`: nowhere. The store's lock is held.
    ///
    /// # Errors
    /// A configured address that cannot be had. With [`Listen::Auto`] that is only a warning: nobody depends on it.
    pub(crate) async fn open(listen: Listen, state_dir: &Path) -> Result<Option<Self>, Failure> {
        match listen {
            Listen::Nowhere => Ok(None),
            Listen::At(address) => {
                let http = Self::at(address, state_dir).await?;
                if !address.ip().is_loopback() {
                    tracing::warn!(%address, "plain HTTP for other machines: the token can be read on the way");
                }
                Ok(Some(http))
            }
            Listen::Auto => {
                let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, USUAL_PORT));
                let opened = match TcpListener::bind(usual).await {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                        tracing::info!(taken = %usual, "another port is used for HTTP");
                        Self::at((Ipv4Addr::LOCALHOST, 0).into(), state_dir).await
                    }
                    bound => Self::of(bound, usual, state_dir),
                };
                Ok(opened.inspect_err(|error| tracing::warn!(%error, "no HTTP but on the control socket")).ok())
            }
        }
    }

    async fn at(address: SocketAddr, state_dir: &Path) -> Result<Self, Failure> {
        Self::of(TcpListener::bind(address).await, address, state_dir)
    }

    fn of(bound: std::io::Result<TcpListener>, address: SocketAddr, state_dir: &Path) -> Result<Self, Failure> {
        let token = token::read_or_make(state_dir)?;
        let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|error| {
            let what = "choose another address for daemon.listen (port 0 takes a free one), or stop what has this one";
            Failure::Failed(format!("cannot listen on {address}: {error}; {what}"))
        })?;
        Ok(Self { listener, address, token })
    }

    /// Where a browser on this machine finds it, e.g. `http://127.0.0.1:7070`.
    pub(crate) fn address(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        format!("http://{address}")
    }
}

/// A server that can be stopped.
pub(crate) struct Server {
    /// The socket, and its file's device and number.
    socket: PathBuf,
    file: (u64, u64),
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
}

impl Server {
    /// Answers what is under way, and no more. The socket is gone then.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.listeners.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        // A process that took this one for dead may listen there by now.
        if file_of(&self.socket).ok() == Some(self.file) {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

fn file_of(socket: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::symlink_metadata(socket).map(|data| (data.dev(), data.ino()))
}

/// Answers on the control socket, and on TCP where that is open. The store's lock is held, so a socket that lies there is a
/// dead one.
pub(crate) async fn serve(socket: &Path, http: Option<Http>, control: Arc<Control>) -> Result<Server, Failure> {
    let what = || format!("cannot listen on {}", socket.display());
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&what(), &error)),
    }
    // Made under a name that nobody knows, shut, and only then put in its place: there is no instant in which others may
    // open it.
    let hidden = PathBuf::from(format!("{}.{}", socket.display(), std::process::id()));
    let listener = UnixListener::bind(&hidden).map_err(|error| failed(&what(), &error))?;
    let file = std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| file_of(&hidden))
        .and_then(|file| std::fs::rename(&hidden, socket).map(|()| file))
        .map_err(|error| failed(&what(), &error))?;
    let (stop, stopped) = watch::channel(false);
    let mut listeners = JoinSet::new();
    listeners.spawn(accept(listener, router(Arc::clone(&control), None), |_| None, stopped.clone()));
    if let Some(Http { listener, token, .. }) = http {
        let own_end = |stream: &TcpStream| {
            // Events are small and come one by one; they are not to wait for more.
            let _ = stream.set_nodelay(true);
            stream.local_addr().ok()
        };
        listeners.spawn(accept(listener, router(control, Some(Door::new(&token))), own_end, stopped));
    }
    Ok(Server { socket: socket.to_owned(), file, stop, listeners })
}

/// Accepts until it is stopped, and returns when what was under way is answered.
async fn accept<L: Listener>(
    mut listener: L,
    router: Router,
    own_end: fn(&L::Io) -> Option<SocketAddr>,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((listener.accept().await.0, place))
        };
        let (io, place) = tokio::select! {
            Some(accepted) = next => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
            Some(_ended) = connections.join_next() => continue,
        };
        let (router, own, stopped) = (router.clone(), own_end(&io), stopped.clone());
        connections.spawn(async move {
            carry(io, router, own, stopped).await;
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of one connection.
async fn carry<Io>(io: Io, router: Router, own: Option<SocketAddr>, mut stopped: watch::Receiver<bool>)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(own) = own {
            request.extensions_mut().insert(OwnEnd(own));
        }
        routes.call(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_AT_MOST)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
    );
    // How a connection ends is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
