use std::sync::Arc;

use steadfast_core::fault::{CallFault, Fault};
use steadfast_model::{CallRequest, Completion, Finish, ProviderSettings, SecretString, client};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::{PATIENT, SHORT, request};

fn shell(script: &str) -> ProviderSettings {
    let command = ["sh", "-c", script, "sh", "--model={model}"].map(str::to_owned).to_vec();
    ProviderSettings { kind: "command".to_owned(), command, ..ProviderSettings::default() }
}

async fn run(script: &str, request: CallRequest) -> Result<Completion, CallFault> {
    client(&shell(script), "vendor/model-1").unwrap().complete(Arc::new(request)).await
}

#[tokio::test]
async fn the_prompt_goes_in_and_the_answer_comes_out() {
    let completion = run("cat", request()).await.unwrap();
    assert_eq!(&*completion.text, "Be brief.\n\nWrite a \"file\".\n");
    assert_eq!(completion.finish, Finish::Stop);
    assert_eq!(client(&shell("cat"), "m").unwrap().host(), None);
}

#[tokio::test]
async fn a_large_prompt_and_a_large_answer_do_not_block_each_other() {
    let mut request = request();
    request.prompt.user = "0123456789abcdef".repeat(1 << 16).into();
    let completion = run("cat", request.clone()).await.unwrap();
    assert_eq!(completion.text.len(), "Be brief.\n\n".len() + request.prompt.user.len());
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let mut request = request();
    request.prompt.user = "x".repeat(1 << 20).into();
    assert_eq!(&*run("exec echo hello", request).await.unwrap().text, "hello\n");
}

#[tokio::test]
async fn a_program_learns_its_context_and_nothing_of_the_user() {
    let script = "echo $1 $STEADFAST_MODEL $STEADFAST_ROLE $STEADFAST_MILESTONE \"$STEADFAST_FILE\" \
                  $STEADFAST_API_KEY $CARGO_PKG_NAME; ls -A | wc -l";
    let settings = ProviderSettings { key: Some(SecretString::from("k-1\n")), ..shell(script) };
    let call = client(&settings, "vendor/model-1").unwrap().complete(Arc::new(request()));
    let text = call.await.unwrap().text;
    let words: Vec<_> = text.split_whitespace().collect();
    // `CARGO_PKG_NAME` is set for this test, but not passed on; the folder is empty.
    let expected = ["--model=vendor/model-1", "vendor/model-1", "coder", "2", "src/a", "b.rs", "k-1", "0"];
    assert_eq!(words, expected);
}

#[tokio::test]
async fn what_a_program_leaves_running_does_not_hold_the_answer_and_is_killed() {
    let (listener, request, _) = lingering(PATIENT).await;
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; sleep 600 & echo hello");
    let completion = client(&bash(&script), "m").unwrap().complete(Arc::new(request)).await.unwrap();
    assert_eq!(&*completion.text, "hello\n");
    let (mut connection, _) = listener.accept().await.unwrap();
    assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_exit_code_or_a_signal_is_unavailable_with_the_end_of_what_it_said() {
    let failed = run("echo half; echo first >&2; seq 1000 >&2; echo last words >&2; exit 3", request()).await;
    let failed = failed.unwrap_err();
    assert_eq!((failed.fault, failed.status), (Fault::Unavailable, None));
    assert_eq!(failed.message.chars().count(), 500);
    assert!(failed.message.starts_with("the program failed (exit status: 3): …"), "{}", failed.message);
    assert!(failed.message.ends_with("1000 last words"), "{}", failed.message);

    let killed = run("kill -9 $$", request()).await.unwrap_err();
    assert_eq!(killed.fault, Fault::Unavailable);
    let silent = run("echo only on stdout; exit 1", request()).await.unwrap_err();
    assert_eq!(silent.message, "the program failed (exit status: 1): only on stdout");
}

#[tokio::test]
async fn the_key_is_masked_in_what_a_program_said() {
    let script = "echo bad key $STEADFAST_API_KEY >&2; exit 1";
    let settings = ProviderSettings { key: Some(SecretString::from("sk-secret-1234")), ..shell(script) };
    let failed = client(&settings, "m").unwrap().complete(Arc::new(request())).await.unwrap_err();
    assert_eq!(failed.message, "the program failed (exit status: 1): bad key ***");
}

#[tokio::test]
async fn an_answer_that_is_empty_too_large_or_no_utf8_is_a_fault() {
    for (script, expected) in [
        ("true", Fault::BadAnswer),
        ("echo", Fault::BadAnswer),
        ("printf '\\377'", Fault::Malformed),
        ("exec cat /dev/zero", Fault::Malformed),
    ] {
        assert_eq!(run(script, request()).await.unwrap_err().fault, expected, "{script}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_makes_no_client() {
    for command in [vec![], vec!["no-such-tool-5e1f".to_owned()], vec!["/no/such/tool".to_owned()]] {
        let settings = ProviderSettings { kind: "command".to_owned(), command, ..ProviderSettings::default() };
        assert!(client(&settings, "m").is_err());
    }
}

/// A script that connects to a listener, from a child of its own, and stays: the connection ends when all are dead.
async fn lingering(timeout: std::time::Duration) -> (TcpListener, CallRequest, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; sleep 600 & sleep 600");
    (listener, CallRequest { timeout, ..request() }, script)
}

fn bash(script: &str) -> ProviderSettings {
    let command = ["bash", "-c", script].map(str::to_owned).to_vec();
    ProviderSettings { kind: "command".to_owned(), command, ..ProviderSettings::default() }
}

#[tokio::test]
async fn dropping_the_future_kills_the_whole_process_group() {
    let (listener, request, script) = lingering(PATIENT).await;
    let running = tokio::spawn(client(&bash(&script), "m").unwrap().complete(Arc::new(request)));
    let (mut connection, _) = listener.accept().await.unwrap();
    running.abort();
    assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_program_whose_time_is_up_is_killed_with_its_children() {
    let (listener, request, script) = lingering(SHORT * 4).await;
    let call = client(&bash(&script), "m").unwrap().complete(Arc::new(request));
    assert_eq!(call.await.unwrap_err().fault, Fault::TimedOut);
    // On a machine that is busy enough it was killed before it connected.
    if let Ok(accepted) = tokio::time::timeout(SHORT, listener.accept()).await {
        assert_eq!(accepted.unwrap().0.read(&mut [0]).await.unwrap(), 0);
    }
}
