//! A server that plays one scripted reply for each request, byte by byte as the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What follows a request. The connection serves further requests unless a step ends it.
pub(crate) type Reply = Vec<Step>;

pub(crate) enum Step {
    Bytes(Vec<u8>),
    /// RST instead of FIN.
    Reset,
    Close,
    /// Closes the connection under the next request, as one does that was closing when the request was sent.
    CloseUnderNext,
    /// Nothing more, until the client goes.
    Hang,
}

/// A request as it arrived; header names in lower case.
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: UnboundedReceiver<Seen>,
    /// One entry for each connection that the client closed.
    pub(crate) gone: UnboundedReceiver<()>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// The last reply is repeated.
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen_sender, seen) = unbounded_channel();
        let (gone_sender, gone) = unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let shared = Arc::new((replies, AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (shared, seen, gone) = (Arc::clone(&shared), seen_sender.clone(), gone_sender.clone());
                tokio::spawn(async move {
                    if serve(stream, &shared.0, &shared.1, &seen).await.is_none() {
                        let _ = gone.send(());
                    }
                });
            }
        });
        Self { address, seen, gone, connections }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// `None` when the client has closed the connection.
async fn serve(
    mut stream: TcpStream,
    replies: &[Reply],
    served: &AtomicUsize,
    seen: &UnboundedSender<Seen>,
) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    loop {
        let request = read_request(&mut stream, &mut buffer).await?;
        let _ = seen.send(request);
        let number = served.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1);
        for step in &replies[number] {
            match step {
                Step::Bytes(bytes) => stream.write_all(bytes).await.ok()?,
                Step::Close => return Some(()),
                Step::CloseUnderNext => {
                    let next = stream.read_buf(&mut buffer).await;
                    return next.is_ok_and(|read| read > 0).then_some(());
                }
                Step::Reset => {
                    stream.set_zero_linger().unwrap();
                    return Some(());
                }
                Step::Hang => {
                    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
                    return None;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse::<usize>().unwrap());
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = match length {
        0 => Value::Null,
        _ => serde_json::from_slice(&buffer[head_end..head_end + length]).unwrap(),
    };
    buffer.drain(..head_end + length);
    Some(Seen { line, headers, body })
}

/// A whole response with a length.
pub(crate) fn response(status: u16, headers: &[&str], body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        bytes += &format!("{header}\r\n");
    }
    vec![Step::Bytes([bytes.as_bytes(), b"\r\n", body].concat())]
}

pub(crate) fn json(status: u16, body: &Value) -> Reply {
    response(status, &["Content-Type: application/json"], body.to_string())
}

/// The head of a chunked event stream and each part as a chunk of its own.
pub(crate) fn begun_stream<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
                X-Request-Id: req-1\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    for part in parts {
        let part = part.as_ref();
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    vec![Step::Bytes(bytes)]
}

/// The same, ended cleanly.
pub(crate) fn stream<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Reply {
    begun_stream(parts).into_iter().chain([Step::Bytes(b"0\r\n\r\n".to_vec())]).collect()
}

pub(crate) fn then(mut reply: Reply, step: Step) -> Reply {
    reply.push(step);
    reply
}
