//! A client on a raw socket, which sees what a real one hides: how a connection ended, and whether the body was whole.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::script::Script;
use crate::server::{Sim, SimHandle};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Orderly,
    Reset,
}

/// Everything that came back on one connection.
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) head: String,
    /// The body with the chunked coding taken off.
    pub(super) body: Vec<u8>,
    /// The body came to its announced end.
    pub(super) whole: bool,
    pub(super) ended: Ended,
}

impl Seen {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The data of a stream's events.
    pub(super) fn events(&self) -> Vec<&str> {
        self.text().split("\n\n").filter_map(|event| event.split_once("data: ")).map(|(_, data)| data).collect()
    }

    /// The content of a stream in OpenAI's format.
    pub(super) fn content(&self) -> String {
        let events = self.events().into_iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        events.filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }
}

pub(super) fn sim(script: &str) -> SimHandle {
    Sim::start((Ipv4Addr::LOCALHOST, 0).into(), Script::parse(script).unwrap()).unwrap()
}

/// A script with one rule for everything.
pub(super) fn always(then: &str) -> SimHandle {
    sim(&format!("[[rule]]\nthen = {{ {then} }}"))
}

pub(super) const CODER: &str =
    "x-steadfast-role: coder\r\nx-steadfast-file: a.md\r\nx-steadfast-milestone: 2\r\nx-steadfast-attempt: 1\r\n";

pub(super) fn request(path: &str, headers: &str, stream: bool) -> String {
    let body = format!(
        r#"{{"model":"m","stream":{stream},"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"hello"}}]}}"#
    );
    format!(
        "POST {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

pub(super) async fn send(sim: &SimHandle, request: &str) -> Seen {
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    // A connection that was reset at once may refuse the request already.
    let _ = stream.write_all(request.as_bytes()).await;
    seen(stream).await
}

pub(super) async fn seen(mut stream: TcpStream) -> Seen {
    let (mut all, mut ended) = (Vec::new(), Ended::Orderly);
    if let Err(error) = stream.read_to_end(&mut all).await {
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        ended = Ended::Reset;
    }
    let at = all.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(at) = at else {
        return Seen { status: 0, head: String::new(), body: all, whole: false, ended };
    };
    let head = String::from_utf8(all[..at].to_vec()).unwrap().to_ascii_lowercase();
    let (body, whole) = if head.contains("transfer-encoding: chunked") {
        unchunk(&all[at + 4..])
    } else {
        let announced: usize =
            head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        (all[at + 4..].to_vec(), announced == all.len() - at - 4)
    };
    Seen { status: head[9..12].parse().unwrap(), head, body, whole, ended }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 4 + size..];
    }
    (body, false)
}

pub(super) async fn chat(sim: &SimHandle, stream: bool) -> Seen {
    send(sim, &request("/v1/chat/completions", CODER, stream)).await
}
