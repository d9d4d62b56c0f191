//! A disk that fills up while sessions are at work (SPEC 8), on a real small file system.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Running, World, milestone, rule, wait_until};

/// A small file system over the state directory, that only processes under it see; it goes when this is dropped.
struct SmallDisk {
    holder: Child,
    under: Vec<String>,
    /// Its root, as this process sees it.
    root: PathBuf,
}

impl SmallDisk {
    /// `None`, and words on standard error, where this machine does not let a test mount anything.
    fn over_state_of(world: &World, size: &str) -> Option<Self> {
        std::fs::create_dir_all(world.state()).unwrap();
        let script = format!("mount -t tmpfs -o size={size} none \"$1\" && echo mounted && exec sleep 600");
        let mut holder = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script, "sh"])
            .arg(world.state())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take()?).read_line(&mut line);
        if line.trim() != "mounted" {
            let _ = holder.wait();
            std::io::stderr().write_all(b"skipped: this machine does not let a test mount a file system\n").unwrap();
            return None;
        }
        let (pid, home) = (holder.id(), world.path(""));
        let under = ["nsenter", "--preserve-credentials", "-U", "-m", "-t", &pid.to_string(), "sh", "-c"]
            .into_iter()
            .map(str::to_owned)
            .chain(["cd \"$0\" && exec \"$@\"".to_owned(), home.to_string_lossy().into_owned()])
            .collect();
        let root = format!("/proc/{pid}/root{}", world.state().display()).into();
        Some(Self { holder, under, root })
    }

    fn run(&self, world: &World, args: &[&str]) -> Value {
        world.steadfast_under(&self.under, args).expect(0).json()
    }

    fn daemon(&self, world: &World) -> Running {
        world.start_under(&self.under, &["daemon"])
    }

    /// Takes all the space that there is but so much.
    fn fill_but(&self, free: u64) {
        let disk = rustix::fs::statvfs(&self.root).unwrap();
        let room = (disk.f_bavail * disk.f_frsize).saturating_sub(free);
        std::fs::write(self.root.join("filler"), vec![1; usize::try_from(room).unwrap()]).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.root.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_disk_that_fills_in_mid_work_ends_in_a_saved_state_and_the_daemon_waits_for_room() {
    let script =
        milestone("Write", &["a.js"], &[], &[]) + &rule("role = \"coder\"", "first = 1", "{ fault = \"hang\" }");
    let world = World::new(&script, &[("daemon.min_free_disk", "\"16 MiB\"")]);
    let Some(disk) = SmallDisk::over_state_of(&world, "64m") else { return };
    let daemon = disk.daemon(&world);
    daemon.hear("ready");
    let submitted = disk.run(&world, &["submit", "idea.md", "--repo", "repo", "--json"]);
    let id = submitted["sessionId"].as_str().unwrap();
    wait_until("the coder's call", || (world.asked("coder").len() == 1).then_some(()));
    disk.fill_but(8 << 20);
    let output = daemon.output().expect(1);
    assert!(output.stderr.contains("the disk is nearly full"), "{}", output.stderr);

    let daemon = disk.daemon(&world);
    daemon.hear("ready");
    let status = disk.run(&world, &["status", "--json"]);
    assert!(status["paused"].as_str().unwrap().starts_with("the disk is nearly full"), "{status}");
    let report = disk.run(&world, &["show", id, "--json"]);
    assert!(report["interrupt_reason"].as_str().unwrap().contains("the disk is nearly full"), "{report}");
    assert_eq!((&report["emergency_shutdown"], &report["can_resume"]), (&json!(true), &json!(true)));
    disk.make_room();
    let phase = || disk.run(&world, &["show", id, "--json"])["phase"].clone();
    wait_until("its end", || (phase() == "completed").then_some(()));
    assert_eq!((world.asked("planner").len(), world.asked("coder").len()), (1, 2), "the plan is not bought again");
    assert!(world.files_at("steadfast/002-feature").contains_key("a.js"));
    daemon.signal(Signal::TERM);
    daemon.output().expect(0);
}
