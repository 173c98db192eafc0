//! `modal store`: where everything is kept, and how it is removed.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lamina_engine::{Engine, Options, store_directory};

use super::print;
use crate::arguments::Store;
use crate::failure::Failure;
use crate::output::text;

/// Answers or removes.
pub(crate) fn store(store: &Store) -> Result<u8, Failure> {
    let root = store_directory()?;
    match store {
        Store::Path => {
            use std::os::unix::ffi::OsStrExt;
            print(&[root.as_os_str().as_bytes(), b"\n"].concat())?;
            Ok(0)
        }
        Store::Remove { yes } => remove(&root, *yes),
    }
}

fn remove(root: &Path, yes: bool) -> Result<u8, Failure> {
    let shown = root.display();
    if !root.exists() {
        say(&format!("There is no store at `{shown}`.\n"));
        return Ok(0);
    }
    let engine = Engine::open(&Options::default())?;
    let size = text::bytes(size_on_disk(root));
    if !yes {
        if !(rustix::termios::isatty(io::stdin()) && rustix::termios::isatty(io::stderr())) {
            return Err(Failure::new(format!("the store `{shown}` ({size}) was not removed: there is nobody to ask"))
                .hint("say so with `modal store remove --yes`"));
        }
        say(&format!("Remove the store `{shown}` with all images, {size}? [y/N] "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            say("Nothing was removed.\n");
            return Ok(1);
        }
    }
    engine.remove_store()?;
    say(&format!("Removed `{shown}`, {size}.\n"));
    Ok(0)
}

/// Bytes that removing `root` frees: every file once, however many names it has. What this user may not look into is
/// made of further names of files that are counted elsewhere.
fn size_on_disk(root: &Path) -> u64 {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs_err::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if metadata.nlink() == 1 || metadata.is_dir() || seen.insert(metadata.ino()) {
                total += metadata.blocks() * 512;
            }
        }
    }
    total
}

/// Tells the user; without a standard error there is nobody to tell.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_counted_once() {
        let root = tempfile::tempdir().unwrap();
        let empty = size_on_disk(root.path());
        fs_err::write(root.path().join("one"), vec![1; 64 << 10]).unwrap();
        let single = size_on_disk(root.path());
        fs_err::hard_link(root.path().join("one"), root.path().join("two")).unwrap();
        assert!(single >= empty + (64 << 10));
        assert_eq!(size_on_disk(root.path()), single);
    }
}
