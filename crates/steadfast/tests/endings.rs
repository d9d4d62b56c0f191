//! How the program ends where its surroundings are at fault.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

fn steadfast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        println!("skipped: this system has no /dev/full");
        return;
    };
    let mut command = steadfast();
    command.args(["--json", "--state-dir"]).arg(folder.path()).arg("sessions");
    let done = command.output().expect("it runs");
    assert_eq!(done.status.code(), Some(0), "{}", error_of(&done));
    let unwritten = command.stdout(full).output().expect("it runs");
    assert_eq!(unwritten.status.code(), Some(1));
    assert!(error_of(&unwritten).starts_with("error: cannot write to standard output: "), "{}", error_of(&unwritten));
}

#[test]
fn a_state_folder_that_no_record_can_name_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = steadfast()
        .current_dir(folder.path())
        .arg("--state-dir")
        .arg(OsStr::from_bytes(b"caf\xe9"))
        .arg("sessions")
        .output();
    let refused = refused.expect("it runs");
    assert_eq!(refused.status.code(), Some(2), "{}", error_of(&refused));
    assert!(error_of(&refused).contains("is no UTF-8 text"), "{}", error_of(&refused));
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
