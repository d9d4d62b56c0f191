//! The objects of one commit as one pack file, made durable before anything points at it.
//!
//! Why a pack and not loose objects: a commit of four files in two folders is eight objects. As a pack these are two files
//! to sync, in a form that appears in the object store by rename, complete or not at all, so that a power cut cannot leave
//! half an object that a repetition would take for a good one. The name follows from the content: a repetition replaces
//! the pack by itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Compress, Compression, FlushCompress, Status};
use git2::ObjectType;
use sha1_smol::Sha1;
use steadfast_fault_point::{self as fault_point, Point};

use crate::error::{RepoError, io_at};
use crate::objects::NewObject;

/// Stores `objects` in `<objects_dir>/pack`. When it returns, they survive a power cut, and so does the content of `also`,
/// a file that is to be synced anyway and goes along for free.
///
/// On an error nothing of it is visible to git, except when the very last sync failed.
pub(crate) fn store_durably(objects_dir: &Path, objects: &[NewObject], also: Option<&File>) -> Result<(), RepoError> {
    let pack = Pack::build(objects);
    fault_point::reach(Point::RepoPackBefore);
    let dir = objects_dir.join("pack");
    if !dir.is_dir() {
        fs::create_dir_all(&dir).map_err(io_at("create", &dir))?;
        sync_dir(objects_dir)?;
    }
    let temporary = |kind: &str| dir.join(temporary_name(kind));
    // `git gc` removes old files that begin with `tmp_`: what a crash leaves behind does not stay for ever.
    let (tmp_pack, tmp_idx) = (temporary("tmp_pack"), temporary("tmp_idx"));
    let written = write_synced(&[(&tmp_pack, &pack.data), (&tmp_idx, &pack.index)], also).and_then(|()| {
        let place = |from: &Path, suffix: &str| {
            let to = dir.join(format!("pack-{}.{suffix}", pack.name));
            fs::rename(from, &to).map_err(io_at("rename", from))
        };
        fault_point::reach(Point::RepoPackWritten);
        // The index comes last: git takes a pack for present as soon as it sees its index.
        place(&tmp_pack, "pack")?;
        fault_point::reach(Point::RepoPackNamed);
        place(&tmp_idx, "idx")
    });
    if written.is_err() {
        // Best effort: the error that is reported is the first one, and a rest is harmless.
        for path in [&tmp_pack, &tmp_idx] {
            fs::remove_file(path).ok();
        }
    }
    written?;
    fault_point::reach(Point::RepoPackIndexed);
    sync_dir(&dir)?;
    fault_point::reach(Point::RepoPackSynced);
    Ok(())
}

/// Writes new files and syncs all side by side: the disk takes them in about the time of one.
fn write_synced(files: &[(&Path, &[u8])], also: Option<&File>) -> Result<(), RepoError> {
    let mut written = Vec::with_capacity(files.len());
    for (path, data) in files {
        written.push((*path, create(path, data)?));
    }
    let mut all: Vec<(&Path, &File)> = written.iter().map(|(path, file)| (*path, file)).collect();
    // Its own name is not known here; it lies in the same repository.
    all.extend(also.map(|file| (files[0].0, file)));
    let sync = |(path, file): (&Path, &File)| file.sync_all().map_err(io_at("sync", path));
    let Some(mine) = all.pop() else { return Ok(()) };
    std::thread::scope(|scope| {
        let others: Vec<_> = all.into_iter().map(|file| scope.spawn(move || sync(file))).collect();
        let first = sync(mine);
        others.into_iter().map(|other| other.join().expect("syncing a file does not panic")).fold(first, Result::and)
    })
}

fn create(path: &Path, data: &[u8]) -> Result<File, RepoError> {
    // Packs are never changed in place, and git makes them read-only too.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o444).open(path);
    let mut file = opened.map_err(io_at("create", path))?;
    file.write_all(data).map_err(io_at("write", path))?;
    Ok(file)
}

/// A name that no other process or thread uses now.
fn temporary_name(kind: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    format!("{kind}_steadfast_{}_{}_{clock}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Makes renames in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), RepoError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(io_at("sync", dir))
}

/// The bytes of a pack (version 2) and of its index (version 2), as gitformat-pack(5) describes them. No deltas: the objects
/// of one commit have little in common, and `git gc` finds what there is.
struct Pack {
    /// The pack's checksum in hexadecimal.
    name: String,
    data: Vec<u8>,
    index: Vec<u8>,
}

impl Pack {
    fn build(objects: &[NewObject]) -> Self {
        let mut distinct: Vec<&NewObject> = objects.iter().collect();
        distinct.sort_by_key(|object| object.id);
        distinct.dedup_by_key(|object| object.id);
        let n_objects = u32::try_from(distinct.len()).expect("a commit changes fewer than 2^32 objects");

        let mut data = Vec::new();
        data.extend_from_slice(b"PACK");
        data.extend_from_slice(&2_u32.to_be_bytes());
        data.extend_from_slice(&n_objects.to_be_bytes());
        let mut places = Vec::with_capacity(distinct.len());
        let mut zlib = Compress::new(Compression::default(), true);
        for object in &distinct {
            let start = data.len();
            append_object(&mut data, &mut zlib, object).expect("writing to memory does not fail");
            places.push((start, crc32fast::hash(&data[start..])));
        }
        let checksum = Sha1::from(&data).digest();
        data.extend_from_slice(&checksum.bytes());

        let mut index = Vec::with_capacity(8 + 256 * 4 + distinct.len() * 28 + 40);
        index.extend_from_slice(&[0xff, b't', b'O', b'c', 0, 0, 0, 2]);
        for first_byte in 0..=u8::MAX {
            let up_to = distinct.partition_point(|object| object.id.as_bytes()[0] <= first_byte);
            index.extend_from_slice(&u32::try_from(up_to).expect("counted above").to_be_bytes());
        }
        for object in &distinct {
            index.extend_from_slice(object.id.as_bytes());
        }
        for (_, crc) in &places {
            index.extend_from_slice(&crc.to_be_bytes());
        }
        // Offsets from 2 GiB on stand in a second table, and the first one points there.
        let mut far = Vec::new();
        for (start, _) in &places {
            let near = u32::try_from(*start).ok().filter(|at| *at < 1 << 31);
            index.extend_from_slice(
                &near.unwrap_or((1 << 31) | u32::try_from(far.len() / 8).expect("counted above")).to_be_bytes(),
            );
            if near.is_none() {
                far.extend_from_slice(&(*start as u64).to_be_bytes());
            }
        }
        index.extend_from_slice(&far);
        index.extend_from_slice(&checksum.bytes());
        let own = Sha1::from(&index).digest();
        index.extend_from_slice(&own.bytes());
        Self { name: checksum.to_string(), data, index }
    }
}

/// `zlib`: used for all, since making one costs more than packing a small file.
fn append_object(pack: &mut Vec<u8>, zlib: &mut Compress, object: &NewObject) -> io::Result<()> {
    let kind: u8 = match object.kind {
        ObjectType::Commit => 1,
        ObjectType::Tree => 2,
        ObjectType::Blob => 3,
        ObjectType::Any | ObjectType::Tag => unreachable!("commits hold no other objects"),
    };
    let mut size = object.data.len();
    let mut byte = (kind << 4) | (size & 0x0f) as u8;
    size >>= 4;
    while size > 0 {
        pack.push(byte | 0x80);
        byte = (size & 0x7f) as u8;
        size >>= 7;
    }
    pack.push(byte);
    zlib.reset();
    // Incompressible data grows by a few bytes each 16 KiB.
    let mut packed = Vec::with_capacity(object.data.len() + object.data.len() / 1000 + 64);
    let mut taken = 0;
    loop {
        let status = zlib.compress_vec(&object.data[taken..], &mut packed, FlushCompress::Finish)?;
        taken = usize::try_from(zlib.total_in()).unwrap_or(usize::MAX);
        match status {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError => packed.reserve(4096),
        }
    }
    pack.extend_from_slice(&packed);
    Ok(())
}

/// Where a repository keeps its objects.
pub(crate) fn objects_dir(common_dir: &Path) -> PathBuf {
    common_dir.join("objects")
}
