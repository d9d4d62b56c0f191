//! `store check`, `store export`, `store import`.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use steadfast_actors::Keeper;
use steadfast_store::TransferError;

use crate::cli::Global;
use crate::commands::look;
use crate::exit::{FAILED, Failure, Outcome, failed};
use crate::progress::{eprint, note};
use crate::setup::{Access, STORE_WAIT, Setup};
use crate::text;
use crate::wire::{CheckBody, DamagedRecord};
use crate::{print, print_json};

/// How often a long command says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Says how far it is, on a terminal, in one line that is written over.
struct Progress {
    what: &'static str,
    told: Option<Instant>,
    begun: Instant,
    is_terminal: bool,
}

impl Progress {
    fn new(what: &'static str) -> Self {
        Self { what, told: None, begun: Instant::now(), is_terminal: std::io::stderr().is_terminal() }
    }

    fn tell(&mut self, done: u64, all: u64) {
        let due = self.told.unwrap_or(self.begun).elapsed() >= TELL_EVERY;
        if self.is_terminal && due {
            self.told = Some(Instant::now());
            let of = if all > 0 { format!(" of {all}") } else { String::new() };
            eprint(&format!("\r{} {done}{of} records", self.what));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            eprint("\r\u{1b}[K");
        }
    }
}

/// Checks everything; for the command and for the daemon.
pub(crate) fn checked(
    keeper: &Keeper,
    state_dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CheckBody, Failure> {
    let check = keeper.check(progress).map_err(|error| failed("cannot read the store", &error))?;
    let status = look::store_status(keeper, state_dir)?;
    let damaged = check.damaged.iter();
    Ok(CheckBody {
        sound: check.is_sound() && status.healed.is_empty(),
        records: check.records,
        previous: check.previous,
        payload_bytes: check.payload_bytes,
        missing: check.missing,
        damaged: damaged.map(|(key, reason)| DamagedRecord { key: key.clone(), reason: reason.clone() }).collect(),
        set_aside: check.set_aside.iter().map(ToString::to_string).collect(),
        healed: status.healed,
        set_aside_files: status.set_aside_files,
    })
}

/// `steadfast store check`.
pub(crate) async fn check(global: &Global) -> Outcome {
    let setup = Setup::load(global)?;
    there_is_one(&setup)?;
    let check: CheckBody = match setup.access_to_look().await? {
        Access::Served(client) => client.get("/v1/store/check").await?,
        Access::Own(keeper) => {
            let mut progress = Progress::new("checked");
            checked(&keeper, setup.state_dir(), &mut |done, all| progress.tell(done, all))?
        }
    };
    if global.json {
        print_json(&check)?;
    } else {
        print(&text::check(&check));
    }
    if check.sound { Ok(()) } else { Err(Failure::Code(FAILED)) }
}

/// A mistyped state directory must not become an empty store that is sound.
fn there_is_one(setup: &Setup) -> Result<(), Failure> {
    let dir = setup.state_dir().join("store");
    if dir.exists() { Ok(()) } else { Err(Failure::Usage(format!("there is no store in {}", dir.display()))) }
}

/// `steadfast store export`.
pub(crate) async fn export(global: &Global, file: &Path) -> Outcome {
    let setup = Setup::load(global)?;
    there_is_one(&setup)?;
    let keeper = setup.open_to_look(STORE_WAIT).await?;
    let mut progress = Progress::new("exported");
    let mut tell = |done, all| progress.tell(done, all);
    let records = if file == Path::new("-") {
        keeper.export(&mut BufWriter::new(std::io::stdout().lock()), &mut tell)
    } else {
        to_file(&keeper, file, &mut tell)
    };
    drop(progress);
    let records = records.map_err(|error| transfer_failure("cannot export the store", &error))?;
    let aside = keeper.n_set_aside().map_err(|error| failed("cannot read the store", &error))?;
    if aside > 0 {
        note(&format!(
            "warning: {aside} record(s) did not verify and are not in the export; `steadfast store check` names them"
        ));
    }
    note(&format!("{records} record(s) exported"));
    Ok(())
}

/// Under another name until it is whole and on disk, so that a full disk leaves the export of yesterday.
fn to_file(keeper: &Keeper, file: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<u64, TransferError> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part: PathBuf = file.with_file_name(name);
    let mut write = || {
        let mut out = BufWriter::new(File::create(&part)?);
        let records = keeper.export(&mut out, tell)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&part, file)?;
        Ok(records)
    };
    let result: Result<u64, TransferError> = write();
    if result.is_err() {
        // The error that is told is the first one.
        let _ = fs::remove_file(&part);
    }
    result
}

/// `steadfast store import`.
pub(crate) async fn import(global: &Global, file: &Path) -> Outcome {
    let setup = Setup::load(global)?;
    let dir = setup.state_dir().join("store");
    let mut progress = Progress::new("imported");
    let mut tell = |done, all| progress.tell(done, all);
    let imported = if file == Path::new("-") {
        steadfast_store::import(&dir, STORE_WAIT, &mut std::io::stdin().lock(), &mut tell)
    } else {
        let input = File::open(file)
            .map_err(|error| Failure::Usage(format!("{}: cannot read the export: {error}", file.display())))?;
        steadfast_store::import(&dir, STORE_WAIT, &mut BufReader::new(input), &mut tell)
    };
    drop(progress);
    let records = imported.map_err(|error| transfer_failure("cannot import into the store", &error))?;
    note(&format!("{records} record(s) imported into {}", dir.display()));
    Ok(())
}

/// What was given is wrong: nothing has changed.
fn transfer_failure(what: &str, error: &TransferError) -> Failure {
    match error {
        TransferError::Line { .. } | TransferError::NotEmpty { .. } => Failure::Usage(error.to_string()),
        TransferError::Store(_) | TransferError::Io(_) => failed(what, error),
    }
}
