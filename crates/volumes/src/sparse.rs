//! Copying contents with their holes, so that a file takes no more space than the one that it was copied from.

use std::fs::File;
use std::io::{self, Read, Seek};

use rustix::fs::{OFlags, SeekFrom, fcntl_getfl, seek};
use rustix::io::Errno;

/// Copies all that `source` has from where it stands; gives how many bytes that is. Holes stay holes where both are files
/// and the target has nothing yet.
pub(crate) fn copy(source: &mut File, target: &mut File) -> io::Result<u64> {
    let (from, to) = (source.metadata()?, target.metadata()?);
    // Files of the kernel say that they are empty.
    let is_usual = from.is_file() && from.len() > 0 && source.stream_position()? == 0;
    let is_fresh = to.is_file() && to.len() == 0 && !fcntl_getfl(&*target)?.contains(OFlags::APPEND);
    if !is_usual || !is_fresh || target.stream_position()? != 0 {
        return io::copy(source, target);
    }
    let mut end = 0;
    let size = loop {
        let start = match seek(&*source, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break source.metadata()?.len().max(end),
            // A file system that knows no holes.
            Err(Errno::INVAL) if end == 0 => return io::copy(source, target),
            Err(errno) => return Err(errno.into()),
        };
        // A file always has a hole at its end.
        let hole = seek(&*source, SeekFrom::Hole(start))?;
        source.seek(io::SeekFrom::Start(start))?;
        target.seek(io::SeekFrom::Start(start))?;
        end = start + io::copy(&mut source.by_ref().take(hole - start), target)?;
        if end < hole {
            // It has become shorter meanwhile, or its size was none.
            break end;
        }
    };
    target.set_len(size)?;
    // Who has the descriptor as well may write on.
    target.seek(io::SeekFrom::Start(size))?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    #[test]
    fn holes_stay_holes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut source = open(&path("source"));
        source.write_all_at(b"first", 0).unwrap();
        source.write_all_at(b"last", 8 << 20).unwrap();
        source.set_len(32 << 20).unwrap();
        let mut target = open(&path("target"));
        assert_eq!(copy(&mut source, &mut target).unwrap(), 32 << 20);
        assert!(fs_err::read(path("source")).unwrap() == fs_err::read(path("target")).unwrap());
        assert!(target.metadata().unwrap().blocks() <= source.metadata().unwrap().blocks());
        target.write_all(b"more").unwrap();
        assert_eq!(target.metadata().unwrap().len(), (32 << 20) + 4);
    }

    #[test]
    fn files_of_any_shape_are_copied_whole() {
        let directory = tempfile::tempdir().unwrap();
        for (number, (data, size)) in
            [(None, 0), (None, 1 << 20), (Some(0), 3), (Some(1 << 20), 2 << 20)].iter().enumerate()
        {
            let path = |name: &str| directory.path().join(format!("{name}{number}"));
            let mut source = open(&path("source"));
            source.set_len(*size).unwrap();
            if let Some(place) = data {
                source.write_all_at(b"abc", *place).unwrap();
            }
            let mut target = open(&path("target"));
            assert_eq!(copy(&mut source, &mut target).unwrap(), *size);
            assert!(fs_err::read(path("source")).unwrap() == fs_err::read(path("target")).unwrap(), "{number}");
        }
    }

    #[test]
    fn what_the_target_has_already_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs_err::write(path("source"), "new").unwrap();
        fs_err::write(path("appended"), "old").unwrap();
        let mut appended = File::options().append(true).open(path("appended")).unwrap();
        assert_eq!(copy(&mut open(&path("source")), &mut appended).unwrap(), 3);
        let mut written = open(&path("written"));
        written.write_all(b"old").unwrap();
        assert_eq!(copy(&mut open(&path("source")), &mut written).unwrap(), 3);
        for name in ["appended", "written"] {
            assert_eq!(fs_err::read_to_string(path(name)).unwrap(), "oldnew");
        }
    }
}
