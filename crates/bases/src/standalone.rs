//! Versions of Python that Debian does not have: standalone builds, installed by the host's `uv`.

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use fs_err as fs;
use lamina_events::CancelToken;
use lamina_ground::EnvVars;
use lamina_store::Timestamp;
use lamina_system::{Bounds, run_bounded};

use crate::BaseError;
use crate::plan::native_series;

/// Where the Python goes, relative to the image's root.
pub(crate) const PREFIX: &str = "usr/local";

/// Compiles the standard library. One process: several would share the work differently each time.
pub(crate) const COMPILE: &str =
    "python3 -I -m compileall -q \"$(python3 -I -c 'import sysconfig; print(sysconfig.get_path(\"stdlib\"))')\" || true
";

/// Where `uv` gets builds from.
const MIRROR: &str = "UV_PYTHON_INSTALL_MIRROR";
/// Files of an installation that are of no use, or of harm, in an image.
const LEFT_OUT: [&str; 2] = ["EXTERNALLY-MANAGED", "__pycache__"];
/// Longer files are no settings that name the installation's directory.
const SETTINGS_LIMIT: u64 = 4 << 20;
/// How many lines of `uv`'s output an error shows.
const TAIL_LINES: usize = 8;

/// Has `uv` install a version, and answers it as a tar archive for [`PREFIX`].
pub(crate) fn fetch(version: &str, uv: Option<&Path>, cancel: &CancelToken) -> Result<File, BaseError> {
    fetch_to(Path::new(""), version, uv, cancel)
}

fn fetch_to(target: &Path, version: &str, uv: Option<&Path>, cancel: &CancelToken) -> Result<File, BaseError> {
    let uv = uv.ok_or_else(|| BaseError::NoUv { version: version.into(), native: native_series() })?;
    let scratch = tempfile::tempdir()?;
    let request = format!("cpython-{version}-linux-{}-gnu", std::env::consts::ARCH);
    let (status, said) = run(uv, &request, scratch.path(), cancel)?;
    let failed = |reason: String| BaseError::Uv {
        version: version.into(),
        command: format!("{} python install {request}", uv.display()),
        mirror: match std::env::var(MIRROR) {
            Ok(mirror) => format!("`{mirror}`, from {MIRROR}"),
            Err(_) => "uv's default".into(),
        },
        reason,
        native: native_series(),
    };
    if !status.success() {
        return Err(failed(said));
    }
    let installed =
        installation(scratch.path())?.ok_or_else(|| failed("it reported success, but installed nothing".into()))?;
    let packed = pack(&installed, target, cancel);
    // However it looked to the packing.
    cancel.check()?;
    Ok(packed?)
}

/// A Python for an image from elsewhere, as a tar archive for its root: a standalone build in `/usr/local`, as Modal adds it.
///
/// # Errors
/// When there is no `uv`, or it cannot get the version.
pub fn added_python(version: &str, uv: Option<&Path>, cancel: &CancelToken) -> Result<File, BaseError> {
    fetch_to(Path::new(PREFIX), version, uv, cancel).map_err(|error| match error {
        // What Debian has is of no use to other images.
        BaseError::NoUv { version, .. } => BaseError::NoUv { version, native: String::new() },
        BaseError::Uv { version, command, mirror, reason, .. } => {
            BaseError::Uv { version, command, mirror, reason, native: String::new() }
        }
        error => error,
    })
}

/// Runs `uv`; answers its status and the end of what it said.
fn run(uv: &Path, request: &str, scratch: &Path, cancel: &CancelToken) -> Result<(ExitStatus, String), BaseError> {
    let mut command = Command::new(uv);
    command
        .args(["python", "install", "--no-progress", request])
        .env("UV_PYTHON_INSTALL_DIR", scratch)
        .env("UV_PYTHON_BIN_DIR", scratch.join(".bin"))
        .env("UV_NO_COLOR", "1")
        .env(EnvVars::NO_COLOR, "1")
        // Settings of a project around the caller are not meant.
        .current_dir(scratch);
    let outcome = run_bounded(&mut command, &Bounds::PACKAGE_TOOL, |killer| cancel.on_cancel(move || killer.kill()))?;
    cancel.check()?;
    if let Some(what) = outcome.exceeded {
        return Ok((outcome.status, format!("it was ended because it wanted {what}")));
    }
    let (status, said) = (outcome.status, String::from_utf8_lossy(&outcome.stderr).into_owned());
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok((status, lines[lines.len().saturating_sub(TAIL_LINES)..].join("; ")))
}

/// The directory of the installed version; beside it `uv` keeps locks and a link for the series.
fn installation(directory: &Path) -> Result<Option<PathBuf>, std::io::Error> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name().as_bytes().starts_with(b"cpython-") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Packs an installation: owned by root, in a fixed order, with [`PREFIX`] wherever it names its own directory.
fn pack(installed: &Path, target: &Path, cancel: &CancelToken) -> std::io::Result<File> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    append(&mut archive, (installed, target), installed, cancel)?;
    let mut file = archive.into_inner()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn append(
    archive: &mut tar::Builder<File>,
    (installed, target): (&Path, &Path),
    directory: &Path,
    cancel: &CancelToken,
) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        cancel.check().map_err(std::io::Error::other)?;
        if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let path = entry.path();
        let inside = &target.join(path.strip_prefix(installed).map_err(std::io::Error::other)?);
        let metadata = entry.metadata()?;
        let mut header = header(&metadata);
        if metadata.is_dir() {
            archive.append_data(&mut header, inside, std::io::empty())?;
            append(archive, (installed, target), &path, cancel)?;
        } else if metadata.is_symlink() {
            archive.append_link(&mut header, inside, fs::read_link(&path)?)?;
        } else if metadata.len() > SETTINGS_LIMIT {
            archive.append_data(&mut header, inside, fs::File::open(&path)?)?;
        } else {
            let contents = relocated(fs::read(&path)?, installed);
            header.set_size(contents.len() as u64);
            archive.append_data(&mut header, inside, &contents[..])?;
        }
    }
    Ok(())
}

fn header(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(Timestamp::PACKAGE.seconds.unsigned_abs());
    if metadata.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
    } else if metadata.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
    } else {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 });
        header.set_size(metadata.len());
    }
    header
}

/// A text that names the directory of the installation names the one in the image instead.
fn relocated(contents: Vec<u8>, installed: &Path) -> Vec<u8> {
    let Some(old) = installed.to_str() else {
        return contents;
    };
    match String::from_utf8(contents) {
        Ok(text) if text.contains(old) => text.replace(old, &format!("/{PREFIX}")).into_bytes(),
        Ok(text) => text.into_bytes(),
        Err(error) => error.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use lamina_ground::Hint;

    use super::*;

    /// A program that stands for `uv`.
    fn fake_uv(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("uv");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn an_installation_becomes_an_archive_that_knows_its_new_place() {
        let directory = tempfile::tempdir().unwrap();
        let uv = fake_uv(
            directory.path(),
            r#"test "$1 $2" = "python install" || exit 9
            to="$UV_PYTHON_INSTALL_DIR/cpython-3.12.4-linux-x86_64-gnu"
            mkdir -p "$to/bin" "$to/lib/python3.12/__pycache__"
            ln -s cpython-3.12.4-linux-x86_64-gnu "$UV_PYTHON_INSTALL_DIR/cpython-3.12-linux-x86_64-gnu"
            echo "prefix=$to" > "$to/lib/python3.12/_sysconfigdata.py"
            printf '\377binary' > "$to/bin/python3.12"; chmod 700 "$to/bin/python3.12"
            ln -s python3.12 "$to/bin/python3"
            touch "$to/lib/python3.12/EXTERNALLY-MANAGED" "$to/lib/python3.12/__pycache__/x.pyc""#,
        );
        let file = fetch("3.12.4", Some(&uv), &CancelToken::new()).unwrap();
        let mut archive = tar::Archive::new(file);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = Vec::new();
            entry.read_to_end(&mut text).unwrap();
            let path = entry.path().unwrap().display().to_string();
            let line = format!("{path} {:o} {}", entry.header().mode().unwrap(), text.trim_ascii().escape_ascii());
            found.push(line.trim_end().to_owned());
        }
        insta::assert_snapshot!(found.join("\n"), @r"
        bin 755
        bin/python3 777
        bin/python3.12 755 \xffbinary
        lib 755
        lib/python3.12 755
        lib/python3.12/_sysconfigdata.py 644 prefix=/usr/local
        ");
    }

    #[test]
    fn failures_say_what_was_tried_and_what_to_set() {
        let directory = tempfile::tempdir().unwrap();
        let uv = fake_uv(directory.path(), "echo 'error: Request failed after 3 retries' >&2; exit 1");
        let error = fetch("3.12", Some(&uv), &CancelToken::new()).unwrap_err();
        for part in ["`3.12`", "python install", "Request failed"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let hint = error.hint().unwrap();
        assert!(hint.contains(MIRROR) && hint.contains("`3.11`"), "{hint}");
        let uv = fake_uv(directory.path(), "exit 0");
        assert!(fetch("3.12", Some(&uv), &CancelToken::new()).is_err());
        let error = fetch("3.12", None, &CancelToken::new()).unwrap_err();
        assert!(error.hint().unwrap().contains("pip install uv"), "{error}");
        let error = added_python("3.12", None, &CancelToken::new()).unwrap_err();
        assert!(error.hint().is_some_and(|hint| !hint.contains("Debian")), "{error}");
    }

    #[test]
    fn cancelling_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let uv = fake_uv(directory.path(), "exec sleep 100");
        let cancel = CancelToken::new();
        let canceller = cancel.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            canceller.cancel();
        });
        assert!(matches!(fetch("3.12", Some(&uv), &cancel), Err(BaseError::Cancelled(_))));
        thread.join().unwrap();
    }
}
