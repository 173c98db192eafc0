//! Package caches shared by steps.
//!
//! A step sees a cache as the lower directory of an overlay and writes to an upper of its own, so that what one step
//! does is invisible to others until it is harvested: finished files, moved one by one, each atomically.

use std::path::Path;

use lamina_image::Digest;
use lamina_image::patterns::PatternMatcher;
use rustix::fs::{CWD, FileType, RenameFlags};
use rustix::io::Errno;

use super::disk::{self, Result, join};
use super::removal::remove_all;
use super::{WorkerContext, view};
use crate::layout::{BEGINNING, cache_upper_paths};
use crate::names::check_name;
use crate::{CacheFilter, Harvest, JobError};

/// Makes the directories of [`cache_upper_paths`]. The upper takes the cache's own mode and owner, as it hides them.
pub(super) fn new_upper(context: &WorkerContext, work_id: &str, cache: &str) -> Result<()> {
    let shared = disk::stat(&context.cache(cache)?)?;
    let (upper, work) = cache_upper_paths(work_id, cache);
    let upper = context.content().join(upper);
    disk::make_directory(upper.parent().unwrap_or(context.content()), 0o755)?;
    disk::make_directory(&upper, shared.st_mode & 0o7777)?;
    disk::change_owner(&upper, &disk::meta(&shared))?;
    disk::make_directory(&context.content().join(work), 0o755)
}

/// Makes the beginning of a cache a copy of a layer's, unless it is there; answers whether it is. Whoever is killed meanwhile
/// leaves none, and of two that make it at once, the first counts.
pub(super) fn begin(context: &WorkerContext, cache: &str, layer: Option<&Digest>) -> Result<bool> {
    let place = context.cache(cache)?.join(BEGINNING);
    let Some(layer) = layer.filter(|_| !matches!(disk::try_stat(&place), Ok(Some(_)))) else {
        return Ok(disk::try_stat(&place)?.is_some());
    };
    let root = context.temporary_path();
    let made = view::copy(context, layer, &root).and_then(|()| {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, root.join(BEGINNING), CWD, &place, flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(true),
            Err(errno) => Err(JobError::file("renaming to", &place)(errno)),
        }
    });
    remove_all(&root)?;
    made
}

/// Moves files and links that the filter takes from a step's cache upper into the cache.
pub(super) fn harvest(context: &WorkerContext, work_id: &str, cache: &str, filter: &CacheFilter) -> Result<Harvest> {
    check_name(cache)?;
    let filter = Filter::new(filter)?;
    let upper = context.content().join(cache_upper_paths(work_id, cache).0);
    let mut harvest = Harvest::default();
    harvest_directory(&upper, &context.cache(cache)?, "", &filter, &mut harvest)?;
    Ok(harvest)
}

struct Filter {
    include: Option<PatternMatcher>,
    exclude: PatternMatcher,
}

impl Filter {
    fn new(filter: &CacheFilter) -> Result<Self> {
        let compile = |patterns: &[String]| {
            PatternMatcher::new(patterns).map_err(|error| JobError::new(JobError::STORE, error.to_string()))
        };
        let include = if filter.include.is_empty() { None } else { Some(compile(&filter.include)?) };
        Ok(Self { include, exclude: compile(&filter.exclude)? })
    }

    fn takes(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|include| include.matches(path)) && !self.exclude.matches(path)
    }
}

fn harvest_directory(from: &Path, to: &Path, relative: &str, filter: &Filter, harvest: &mut Harvest) -> Result<()> {
    for (name, _) in disk::list(from)? {
        let path = join(from, &name);
        let stat = disk::stat(&path)?;
        let text = String::from_utf8_lossy(&name);
        let relative = if relative.is_empty() { text.into_owned() } else { format!("{relative}/{text}") };
        match disk::file_type(&stat) {
            FileType::Directory => {
                let place = join(to, &name);
                // Never through something that an earlier step has left in the place of a directory.
                if disk::try_stat(&place)?.is_none_or(|stat| disk::file_type(&stat) == FileType::Directory) {
                    harvest_directory(&path, &place, &relative, filter, harvest)?;
                }
            }
            // No links: package managers' caches have none, and they could lead the next harvest elsewhere.
            FileType::RegularFile
                if filter.takes(&relative) && make_parents(from, to)? && move_file(&path, &join(to, &name))? =>
            {
                harvest.files += 1;
                harvest.bytes += disk::size(&stat);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the directory `to` like `from`, and its parents alike; false when something else is in the way.
fn make_parents(from: &Path, to: &Path) -> Result<bool> {
    if let Some(stat) = disk::try_stat(to)? {
        return Ok(disk::file_type(&stat) == FileType::Directory);
    }
    let (Some(from_parent), Some(to_parent)) = (from.parent(), to.parent()) else {
        return Ok(false);
    };
    if !make_parents(from_parent, to_parent)? {
        return Ok(false);
    }
    let meta = disk::meta(&disk::stat(from)?);
    disk::make_directory(to, meta.mode)?;
    disk::change_owner(to, &meta)?;
    Ok(true)
}

/// Moves a file over whatever file is there; false when a directory is in the way.
fn move_file(from: &Path, to: &Path) -> Result<bool> {
    match rustix::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::ISDIR) => Ok(false),
        Err(errno) => Err(JobError::file("renaming to", to)(errno)),
    }
}
