//! The unit files for systemd, as systemd itself judges them. Where its tool is not installed, that is said and nothing
//! is shown.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/systemd");

/// `systemd-analyze` with these arguments; `None`: there is none, or one that does not know them.
fn analyze(args: &[&str], unit: &Path) -> Option<Output> {
    let skip = |why: &str| {
        use std::io::Write as _;
        // Whoever reads the test's output is told; nobody else needs to know.
        let _ = writeln!(std::io::stderr(), "skipped: systemd-analyze {}: {why}", args.join(" "));
        None
    };
    let mut command = Command::new("systemd-analyze");
    // A user's unit is judged for a user who is logged in, and has a folder for that.
    let folder = unit.parent().expect("a file lies in a folder");
    match command.args(args).arg(unit).env("LC_ALL", "C").env("XDG_RUNTIME_DIR", folder).output() {
        Err(error) => skip(&error.to_string()),
        Ok(output) if said(&output).contains("unrecognized option") => skip("it is too old"),
        Ok(output) => Some(output),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A unit with drop-ins in a folder of its own, with a program that exists here.
fn installed(unit: &str, drop_ins: &[&str]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let text = std::fs::read_to_string(Path::new(DIR).join(unit)).unwrap();
    let program = env!("CARGO_BIN_EXE_steadfast");
    let path = dir.path().join("steadfast.service");
    let text = text.replace("/usr/local/bin/steadfast", program).replace("%h/.local/bin/steadfast", program);
    assert_eq!(text.matches(program).count(), 2, "to start and to reload");
    std::fs::write(&path, text).unwrap();
    std::fs::create_dir(dir.path().join("steadfast.service.d")).unwrap();
    for name in drop_ins {
        let name = format!("steadfast.service.d/{name}");
        std::fs::copy(Path::new(DIR).join(&name), dir.path().join(&name)).unwrap();
    }
    (dir, path)
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    for (kind, unit, drop_ins) in [
        ("--system", "steadfast.service", &["repositories.conf", "checks.conf"][..]),
        ("--user", "user/steadfast.service", &[]),
    ] {
        let (_dir, path) = installed(unit, drop_ins);
        let Some(output) = analyze(&["verify", kind], &path) else { return };
        // An unknown key or value is a warning and no failure. Two keys came with systemd 254, and are ignored before.
        let known = ["'RestartSteps'", "'RestartMaxDelaySec'"];
        let text = said(&output);
        let against: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("steadfast") && !known.iter().any(|key| line.contains(key)))
            .collect();
        assert!(against.is_empty() && output.status.success(), "{unit}: {text}");
    }
}

#[test]
fn systemd_rates_the_exposure_of_the_service_as_low() {
    // In tenths, of 10.0: what the service is, and what it is where its checks have a sandbox of their own.
    for (drop_ins, most) in [(&["repositories.conf"][..], 20), (&["repositories.conf", "checks.conf"], 25)] {
        let (_dir, path) = installed("steadfast.service", drop_ins);
        let threshold = format!("--threshold={most}");
        let Some(output) = analyze(&["security", "--offline=yes", &threshold], &path) else { return };
        assert!(output.status.success(), "{drop_ins:?}: {}", said(&output));
    }
}
