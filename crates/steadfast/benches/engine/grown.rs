//! A store that has grown: what an idle daemon holds in memory, and how long the commands that look at it take.

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use steadfast_actors::records::{Counts, SessionRecord};
use steadfast_core::ids::{IdeaId, SessionId};
use steadfast_store::{Batch, CheckpointStore, Key, OpenOptions, Prefix, Record, RecordKind, Scan, SledStore};

use crate::daemon::Daemon;
use crate::measure::{Usage, memory_mib};
use crate::program::steadfast;
use crate::server::Server;
use crate::work::Work;
use crate::{CALLS, Sizes, foreground};

/// Sessions that share one sync while the store is filled, as many at once would.
const PER_SYNC: usize = 64;
/// About what an answer of the engine takes up in the store.
const ANSWER_BYTES: usize = 1_800;
/// What `sessions` is asked for.
const LISTED: usize = 20;
/// So long a daemon is left alone before it counts as idle.
const REST: Duration = Duration::from_secs(2);

/// What was seen on the grown store.
pub(crate) struct Grown {
    /// Finished sessions in the store.
    pub(crate) finished: usize,
    /// One of them as it is packed.
    pub(crate) record_bytes: usize,
    /// The store on disk.
    pub(crate) disk_mib: f64,
    /// Resident memory of a daemon that has done nothing.
    pub(crate) idle_mib: f64,
    /// And after it answered the commands.
    pub(crate) later_mib: f64,
    /// The first command after the store was filled and closed: it opens what no process has opened before.
    pub(crate) first_ms: f64,
    /// The commands without a daemon.
    pub(crate) alone: Times,
    /// And with one.
    pub(crate) with_daemon: Times,
}

/// The runs of either command.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) show: Runs,
    pub(crate) sessions: Runs,
}

/// Milliseconds of a command, from exec to exit, by run.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) wall: Vec<f64>,
    /// User and system time: of the wall time, what does not depend on a disk or on other work of the machine.
    pub(crate) cpu: Vec<f64>,
}

impl Runs {
    fn push(&mut self, (wall, cpu): (f64, f64)) {
        self.wall.push(wall);
        self.cpu.push(cpu);
    }
}

/// Fills a store and looks at it.
pub(crate) fn measure(work: &mut Work, server: &Server, sizes: &Sizes) -> anyhow::Result<Grown> {
    let job = work.jobs("grown", 1)?.pop().context("no session")?;
    foreground::run(work, server, &job)?;
    let state = job.dir.join("state");
    let filled = fill(&state.join("store"), sizes.finished).context("cannot fill the store")?;
    work.settle()?;
    let commands = Commands { work, server, state: &state };
    // Sessions from all over the store, so that not always the same page is read.
    let shown: Vec<&SessionId> =
        filled.ids.iter().step_by((filled.ids.len() / sizes.commands).max(1)).take(sizes.commands).collect();
    let (first_ms, _) = commands.show(shown.last().context("no sessions")?)?;
    let alone = commands.all(&shown)?;
    let daemon = Daemon::start(work, server, &state)?;
    thread::sleep(REST);
    let resident = || memory_mib(daemon.pid(), "VmRSS").context("the daemon is gone");
    let idle_mib = resident()?;
    let with_daemon = commands.all(&shown)?;
    let later_mib = resident()?;
    daemon.stop()?;
    work.clean(&[job])?;
    Ok(Grown {
        finished: filled.ids.len(),
        record_bytes: filled.record_bytes,
        disk_mib: filled.disk_mib,
        idle_mib,
        later_mib,
        first_ms,
        alone,
        with_daemon,
    })
}

/// Runs commands and checks what they say.
struct Commands<'a> {
    work: &'a Work,
    server: &'a Server,
    state: &'a Path,
}

impl Commands<'_> {
    fn all(&self, shown: &[&SessionId]) -> anyhow::Result<Times> {
        let mut times = Times::default();
        for id in shown {
            times.show.push(self.show(id)?);
            let (list, run) = self.run(&["sessions", "--limit", &LISTED.to_string()])?;
            ensure!(list.as_array().is_some_and(|list| list.len() == LISTED), "sessions lists {list}");
            times.sessions.push(run);
        }
        Ok(times)
    }

    fn show(&self, id: &SessionId) -> anyhow::Result<(f64, f64)> {
        let (report, run) = self.run(&["show", id.as_str()])?;
        ensure!(report["sessionId"] == id.as_str() && report["phase"] == "completed", "show says {report}");
        Ok(run)
    }

    /// What it prints, and its wall and CPU time in milliseconds.
    fn run(&self, args: &[&str]) -> anyhow::Result<(Value, (f64, f64))> {
        let errors = self.state.with_extension("command-errors");
        let mut command = steadfast(self.work, self.server, self.state, &errors)?;
        command.args(args).stdout(Stdio::piped());
        let (before, start) = (Usage::now()?, Instant::now());
        let output = command.output().context("cannot start steadfast")?;
        let (wall, cpu) = (start.elapsed(), Usage::now()?.since(before).children);
        let run = (wall.as_secs_f64() * 1e3, cpu.as_secs_f64() * 1e3);
        ensure!(
            output.status.success(),
            "{}: {}",
            args.join(" "),
            std::fs::read_to_string(&errors).unwrap_or_default()
        );
        Ok((serde_json::from_slice(&output.stdout)?, run))
    }
}

pub(crate) struct Filled {
    ids: Vec<SessionId>,
    record_bytes: usize,
    disk_mib: f64,
}

/// Multiplies the one real session of a store: each copy is the record that the engine wrote, under its own id and idea,
/// with the same index entries. Before that, parts of the size of a session's answers are written and taken out again,
/// as each session leaves them behind, so that the files have a past and not only a present.
pub(crate) fn fill(dir: &Path, n: usize) -> anyhow::Result<Filled> {
    let (store, _) = SledStore::open(dir, &OpenOptions { lock_wait: Duration::from_secs(10) })?;
    let heads = store.scan(&Scan::newest(Prefix::session_heads(), 1))?;
    let (_, packed) = heads.entries.into_iter().next().context("no finished session in it")?;
    // The kind is taken from the record itself: whatever the engine wrote, the copies are the same.
    let kind = RecordKind::new(packed.tag, packed.version, "finished session");
    let real: SessionRecord = steadfast_store::decode(kind, &packed)?;
    let marks = store.scan(&Scan::all(Prefix::metas_named(&format!("idea/{}/", real.session.idea))))?.entries;
    ensure!(marks.len() == 1, "{} index entries for one session", marks.len());
    let mut ids = Vec::with_capacity(n);
    for at in 0..n {
        let mut copy = real.clone();
        // One a second, all before the real one.
        let age_ms = (n - at) as u64 * 1_000;
        copy.session.created_ms = real.session.created_ms.saturating_sub(age_ms);
        copy.session.updated_ms = real.session.updated_ms.saturating_sub(age_ms);
        copy.session.id = SessionId::new(copy.session.created_ms, at as u32);
        copy.session.idea = IdeaId::new(&format!("grown-{at}"))?;
        copy.session.branch = format!("steadfast/{}", copy.session.idea);
        let id = copy.session.id.clone();
        store.apply(&parts(&id))?;
        let mut batch = Batch::new();
        batch.delete_all(Prefix::session_parts(&id));
        batch.put(Key::session_head(&id), steadfast_store::encode(kind, &copy)?);
        for (_, mark) in &marks {
            batch.put(Key::meta(&format!("idea/{}/{id}", copy.session.idea)), mark.clone());
        }
        store.apply(&batch)?;
        ids.push(id);
        if at % PER_SYNC == PER_SYNC - 1 {
            store.sync()?;
        }
    }
    raise_counts(&store, n)?;
    store.sync()?;
    // The engine does this whenever its writer is idle.
    while store.maintain()? {}
    let disk_mib = store.usage().disk_bytes as f64 / f64::from(1 << 20);
    Ok(Filled { ids, record_bytes: packed.payload.len(), disk_mib })
}

/// What a session writes while it runs. The bytes differ, as answers do.
fn parts(session: &SessionId) -> Batch {
    let mut batch = Batch::new();
    for at in 0..CALLS {
        let payload = session.as_str().bytes().chain(0..=255).cycle().skip(at).take(ANSWER_BYTES).collect();
        let record = Record { tag: 0x7fff, version: 1, payload };
        batch.put(Key::session_part(session, &format!("a/{at:03}")), record);
    }
    batch
}

/// The count of finished sessions, which the engine keeps beside them.
fn raise_counts(store: &SledStore, n: usize) -> anyhow::Result<()> {
    let key = Key::meta("counts");
    let found = store.get(&key)?.context("no counts in it")?;
    let kind = RecordKind::new(found.record.tag, found.record.version, "session counts");
    let mut counts: Counts = found.value(kind)?;
    counts.completed += n;
    let mut batch = Batch::new();
    batch.put_value(key, kind, &counts)?;
    Ok(store.apply(&batch)?)
}
