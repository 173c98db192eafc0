//! Collection: giving back the disk that nothing refers to any more.
//!
//! The engine decides which layers stay, and holds off other processes while [`retire`] renames the others away: from then
//! on nobody can begin to use them. [`remove`] takes its time, and other processes go on meanwhile. They are held off
//! once more for [`sweep`]: an object goes when no tree and no kept package names it and no other link to it exists.

use std::collections::HashSet;
use std::path::Path;

use lamina_image::Digest;
use rustix::fs::{FileType, Stat};

use super::disk::{self, Result, join};
use super::removal::remove_all;
use super::{KeptPackage, WorkerContext};
use crate::layout::SEEDED;
use crate::protocol::{ContentUsage, Freed, Sweep};
use crate::tree::Tree;
use crate::{JobError, ObjectName};

/// Renames trees and views away that are not to be kept; answers where to, relative to the content directory.
pub(super) fn retire(context: &WorkerContext, keep: &HashSet<Digest>) -> Result<String> {
    let retired = context.temporary_path();
    disk::make_directory(&retired, 0o700)?;
    // A layer is there only while both are, so the small file goes first.
    for directory in ["trees", "outlines", "views", "whiteouts", "copies"] {
        let from = context.content().join(directory);
        let to = retired.join(directory);
        disk::make_directory(&to, 0o700)?;
        for (name, _) in disk::list(&from)? {
            let stays = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<Digest>().ok());
            if stays.is_none_or(|digest| !keep.contains(&digest)) {
                disk::rename(&join(&from, &name), &join(&to, &name))?;
            }
        }
        disk::sync_directory(&from)?;
    }
    let relative = retired.strip_prefix(context.content()).unwrap_or(&retired);
    Ok(relative.to_string_lossy().into_owned())
}

/// Removes what was retired; answers the bytes that this gave back.
pub(super) fn remove(context: &WorkerContext, retired: &str) -> Result<u64> {
    let path = context.content().join(retired);
    let freed = size_of_single_links(&path)?;
    remove_all(&path)?;
    Ok(freed)
}

/// Removes what nothing refers to.
pub(super) fn sweep(context: &WorkerContext, packages: &[KeptPackage], sweep: &Sweep) -> Result<Freed> {
    let mut freed = Freed::default();
    let mut named = installed_objects(context)?;
    let (going, staying): (Vec<_>, Vec<_>) =
        packages.iter().partition(|package| is_dispensable(package, &named, sweep));
    for description in going.iter().flat_map(|package| &package.descriptions) {
        disk::unlink(&description.path)?;
    }
    freed.packages = going.len() as u64;
    named.extend(staying.iter().flat_map(|package| package.objects()));
    freed.bytes += sweep_objects(context, &named)?;
    if let Some(unused_since) = sweep.caches_unused_since {
        freed.bytes += sweep_caches(context, unused_since, &sweep.mounted)?;
    }
    Ok(freed)
}

/// Whether a kept package is to be forgotten.
fn is_dispensable(package: &KeptPackage, installed: &HashSet<ObjectName>, sweep: &Sweep) -> bool {
    let is_old = sweep.packages_unused_since.is_some_and(|time| package.last_used < time);
    let is_damaged = package.descriptions.iter().any(|description| description.objects.is_err());
    let is_installed = || package.objects().all(|object| installed.contains(object));
    is_old || is_damaged || (sweep.only_installed && !is_installed())
}

/// The objects that the published trees name.
fn installed_objects(context: &WorkerContext) -> Result<HashSet<ObjectName>> {
    let directory = context.content().join("trees");
    let mut objects = HashSet::new();
    for (name, _) in disk::list(&directory)? {
        let path = join(&directory, &name);
        let mut encoded = Vec::new();
        std::io::Read::read_to_end(&mut disk::open(&path)?, &mut encoded).map_err(JobError::file("reading", &path))?;
        // A tree that cannot be read is of no use to anybody: what it names is free.
        if let Ok(tree) = Tree::decode(&encoded) {
            objects.extend(tree.entries().iter().filter_map(|entry| entry.node.object()));
        }
    }
    Ok(objects)
}

fn sweep_objects(context: &WorkerContext, named: &HashSet<ObjectName>) -> Result<u64> {
    let named: HashSet<_> = named.iter().map(ObjectName::path).collect();
    let mut freed = 0;
    for_each_object(context, |path, stat| {
        let relative = path.strip_prefix(context.content()).unwrap_or(path);
        if disk::links(stat) == 1 && !named.contains(relative) {
            disk::unlink(path)?;
            freed += disk::allocated(stat);
        }
        Ok(())
    })?;
    Ok(freed)
}

fn for_each_object(context: &WorkerContext, mut visit: impl FnMut(&Path, &Stat) -> Result<()>) -> Result<()> {
    let objects = context.content().join("objects");
    for (directory, _) in disk::list(&objects)? {
        let directory = join(&objects, &directory);
        for (name, _) in disk::list(&directory)? {
            let path = join(&directory, &name);
            // Another process may have removed it meanwhile.
            if let Some(stat) = disk::try_stat(&path)? {
                visit(&path, &stat)?;
            }
        }
    }
    Ok(())
}

/// The objects whose names begin with a digit, by name; what has no name of an object is none.
pub(super) fn objects_of(context: &WorkerContext, digit: u8) -> Result<Vec<(ObjectName, std::path::PathBuf)>> {
    let directory = context.content().join("objects").join(char::from(digit).to_string());
    let named = |(name, _): &(Vec<u8>, FileType)| {
        let object = ObjectName::parse(digit, name)?;
        Some((object, join(&directory, name)))
    };
    Ok(disk::list(&directory)?.iter().filter_map(named).collect())
}

/// Removes files of caches that no step brought since. A cache that began as a copy goes as a whole, or else nobody would copy
/// again what is missing.
fn sweep_caches(context: &WorkerContext, unused_since: i64, mounted: &HashSet<String>) -> Result<u64> {
    let caches = context.content().join("caches");
    let mut freed = 0;
    for (name, _) in disk::list(&caches)? {
        if mounted.contains(&*String::from_utf8_lossy(&name)) {
            continue;
        }
        if name.starts_with(SEEDED.as_bytes()) {
            freed += sweep_seeded(&join(&caches, &name), unused_since)?;
        } else {
            walk(&join(&caches, &name), &mut |path, stat| {
                // The time of the last change is that of the harvest; the other one came with the download.
                if disk::file_type(stat) != FileType::Directory && stat.st_ctime < unused_since {
                    disk::unlink(path)?;
                    freed += disk::allocated(stat);
                }
                Ok(())
            })?;
        }
    }
    Ok(freed)
}

fn sweep_seeded(cache: &Path, unused_since: i64) -> Result<u64> {
    let (mut size, mut is_used) = (0, false);
    walk(cache, &mut |_, stat| {
        is_used |= stat.st_ctime >= unused_since;
        size += disk::allocated(stat);
        Ok(())
    })?;
    if is_used {
        return Ok(0);
    }
    remove_all(cache)?;
    Ok(size)
}

/// Measures what is below the content directory.
pub(super) fn measure(context: &WorkerContext) -> Result<ContentUsage> {
    let content = context.content();
    let mut usage = ContentUsage::default();
    for_each_object(context, |_, stat| {
        usage.objects += disk::allocated(stat);
        Ok(())
    })?;
    for (name, _) in disk::list(content)? {
        // Volumes are no part of what can be made again, and may be of any depth.
        if name == b"volumes" {
            continue;
        }
        let size = match &name[..] {
            b"objects" => size_of_directories(&join(content, &name))?,
            _ => size_of_single_links(&join(content, &name))?,
        };
        match &name[..] {
            b"views" | b"whiteouts" | b"copies" => usage.views += size,
            b"caches" => usage.caches += size,
            _ => usage.other += size,
        }
    }
    Ok(usage)
}

/// Bytes of a directory of directories itself, without their files.
fn size_of_directories(path: &Path) -> Result<u64> {
    let mut total = disk::allocated(&disk::stat(path)?);
    for (name, _) in disk::list(path)? {
        total += disk::allocated(&disk::stat(&join(path, &name))?);
    }
    Ok(total)
}

/// Bytes that removing `path` gives back: what has further links does not count.
fn size_of_single_links(path: &Path) -> Result<u64> {
    let mut total = 0;
    walk(path, &mut |_, stat| {
        if disk::file_type(stat) == FileType::Directory || disk::links(stat) == 1 {
            total += disk::allocated(stat);
        }
        Ok(())
    })?;
    Ok(total)
}

/// Visits everything below a directory, and itself; what vanishes meanwhile is passed over.
fn walk(top: &Path, visit: &mut dyn FnMut(&Path, &Stat) -> Result<()>) -> Result<()> {
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        let Some(stat) = disk::try_stat(&path)? else { continue };
        if disk::file_type(&stat) == FileType::Directory {
            match disk::list(&path) {
                Ok(names) => pending.extend(names.iter().map(|(name, _)| join(&path, name))),
                Err(_) if disk::try_stat(&path)?.is_none() => continue,
                Err(error) => return Err(error),
            }
        }
        visit(&path, &stat)?;
    }
    Ok(())
}
