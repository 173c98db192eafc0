//! Collection: giving disk space back, and saying what takes it.
//!
//! A collection never takes what a running process uses. Every process notes the layers and caches that it uses in its
//! session's file; whoever collects holds the collection lock while it decides and renames layers away, and everybody
//! else holds it, shared, from looking for a layer to having noted it.

mod deployed;
mod plan;
mod sizes;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use lamina_events::CancelToken;
use lamina_image::Digest;

use super::Store;
use super::files::record;
use super::lease::{self, Leases};
use super::lock::Lock;
use crate::protocol::{ContentUsage, Freed, Request, Sweep};
use crate::{ImageRecord, Layout, StoreError};

use plan::{Facts, Plan, plan};
use sizes::Sizes;

pub use plan::Policy;

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Collected {
    /// Images that went.
    pub images: Vec<ImageRecord>,
    /// Images that would have gone if no running process used them.
    pub used: Vec<ImageRecord>,
    /// Layers that went.
    pub layers: u64,
    /// Kept packages that were forgotten.
    pub packages: u64,
    /// Bytes that came free; of a dry run, those that layers alone would free.
    pub bytes: u64,
}

/// What takes up the disk, in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Every image, last used first.
    pub images: Vec<ImageUsage>,
    /// Files of images, each once.
    pub layers: u64,
    /// Files of local directories and of functions' sources that are in no image.
    pub local_files: u64,
    /// Unpacked packages that are in no image.
    pub packages: u64,
    /// Caches of package managers, downloads, and pages of package indexes.
    pub caches: u64,
    /// Logs of builds, and what detached apps printed.
    pub logs: u64,
    /// Directories, the index and everything else that keeps the store together.
    pub other: u64,
}

/// What an image takes up.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageUsage {
    /// The image.
    pub image: ImageRecord,
    /// Bytes of the blocks that its files take, each once.
    pub bytes: u64,
    /// Bytes of those that no other image has.
    pub unique: u64,
}

impl Usage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.layers + self.local_files + self.packages + self.caches + self.logs + self.other
    }
}

/// The lock that holds off collection.
pub(super) fn lock_file(layout: &Layout) -> PathBuf {
    layout.locks().join("collection")
}

impl Store {
    /// Removes what the policy names and everything that nothing refers to any more, except what running processes use.
    /// `waiting` is called when other processes have to come to a point where this can begin.
    ///
    /// # Errors
    /// When cancelled while waiting for other processes, or something cannot be read or removed. What was not removed
    /// then is removed the next time.
    pub fn collect(&self, policy: &Policy, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<Collected, StoreError> {
        let mut policy = policy.clone();
        let (plan, retired) = {
            let _alone = self.stop_others(cancel, waiting)?;
            let leases = self.shared.session.others(self.layout())?;
            let plan = self.plan(&mut policy, &leases)?;
            if policy.dry_run {
                let bytes = self.bytes_without(&plan)?;
                return Ok(collected(plan, &Freed { bytes, packages: 0 }));
            }
            let images: Vec<&str> = plan.images.iter().map(|image| &*image.id).collect();
            self.shared.index.forget(&images, &plan.layers)?;
            let retired: String = self.shared.client.call(Request::Retire { keep: plan.live.clone() })?;
            (plan, retired)
        };
        let mut bytes: u64 = self.shared.client.call_until(Request::RemoveRetired { retired }, cancel)?;
        let _alone = self.stop_others(cancel, waiting)?;
        // Others may have begun meanwhile.
        let leases = self.shared.session.others(self.layout())?;
        let freed = self.sweep(&policy, &leases)?;
        bytes += freed.bytes + self.remove_files(&policy, &plan, &leases)?;
        Ok(collected(plan, &Freed { bytes, ..freed }))
    }

    /// What takes up the disk.
    ///
    /// # Errors
    /// When the index cannot be read or the worker fails.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let content: ContentUsage = self.shared.client.call(Request::Measure)?;
        let images = self.list_images()?;
        let read = |digest: &Digest| self.tree(digest);
        let mut sizes = Sizes::new(&read);
        let companions = self.shared.index.layers()?.into_iter().flat_map(|layer| layer.digests().bottom_up().to_vec());
        let layers: HashSet<Digest> =
            companions.chain(images.iter().flat_map(|image| image.layers.bottom_up().to_vec())).collect();
        let mut usage = Usage::default();
        for layer in images.iter().flat_map(|image| image.layers.bottom_up()) {
            sizes.add(layer);
        }
        for image in images {
            let mut alone = Sizes::new(&read);
            for layer in image.layers.bottom_up() {
                alone.add(layer);
            }
            let unique = sizes.unique(image.layers.bottom_up());
            usage.images.push(ImageUsage { image, bytes: alone.total(), unique });
        }
        for layer in &layers {
            sizes.add(layer);
        }
        usage.layers = sizes.total();
        for tree in self.published_trees()?.iter().filter(|tree| !layers.contains(*tree)) {
            sizes.add(tree);
        }
        usage.local_files = sizes.total() - usage.layers;
        usage.packages = content.objects.saturating_sub(sizes.total());
        let layout = self.layout();
        usage.caches = content.caches
            + size_of(&layout.downloads())
            + size_of(&layout.uv_cache())
            + size_of(&layout.conda_indexes());
        usage.logs = size_of(&layout.logs()) + size_of(&layout.apps()) + size_of(&layout.deployments());
        usage.other = content.views + content.other + size_of(&layout.contexts()) + size_of(&layout.locks());
        usage.other += size_of(&layout.reserve());
        usage.other += ["index.db", "index.db-wal"].iter().map(|name| size_of(&layout.root().join(name))).sum::<u64>();
        Ok(usage)
    }

    /// Waits until nobody is on the way to a layer, and holds everybody off who wants to be.
    pub(super) fn stop_others(&self, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<Lock, StoreError> {
        Ok(Lock::take(&lock_file(self.layout()), cancel, waiting)?.keep_file())
    }

    /// The plan for a policy; the policy's limit is dropped if the store keeps it.
    fn plan(&self, policy: &mut Policy, leases: &Leases) -> Result<Plan, StoreError> {
        let (images, layers, now) = (self.list_images()?, self.shared.index.layers()?, lease::now());
        let mut overhead = 0;
        if let Some(maximum) = policy.maximum_bytes {
            let usage = self.usage()?;
            overhead = usage.other + usage.logs;
            policy.maximum_bytes = Some(maximum).filter(|maximum| usage.total() > *maximum);
        }
        let cutoff = cutoff(policy, now);
        let mut held = leases.layers.clone();
        held.extend(self.contexts(cutoff)?);
        held.extend(deployed::layers(self.layout())?);
        let read = |digest: &Digest| self.tree(digest);
        let named = self.image_names()?.into_iter().map(|named| named.image).collect();
        let facts = Facts { images: &images, layers: &layers, held: &held, cutoff, named: &named, now };
        Ok(plan(&facts, policy, &mut Sizes::new(&read), overhead))
    }

    /// Views of file sets that were used since `cutoff`: the next run shows them again, or compares the local files with
    /// them.
    fn contexts(&self, cutoff: Option<i64>) -> Result<Vec<Digest>, StoreError> {
        let is_recent = |path: &Path| cutoff.is_none_or(|cutoff| modified(path) >= cutoff);
        let contexts = files_in(&self.layout().contexts())?;
        Ok(contexts.iter().filter(|path| is_recent(path)).flat_map(|path| record::views(path)).collect())
    }

    /// Bytes that the layers of a plan free.
    fn bytes_without(&self, plan: &Plan) -> Result<u64, StoreError> {
        let read = |digest: &Digest| self.tree(digest);
        let mut sizes = Sizes::new(&read);
        for layer in &plan.live {
            sizes.add(layer);
        }
        let staying = sizes.total();
        for tree in self.published_trees()?.iter().filter(|tree| !plan.live.contains(*tree)) {
            sizes.add(tree);
        }
        Ok(sizes.total() - staying)
    }

    fn sweep(&self, policy: &Policy, leases: &Leases) -> Result<Freed, StoreError> {
        let now = lease::now();
        self.shared.client.call(Request::Sweep(Sweep {
            packages_unused_since: policy.cutoff(now),
            caches_unused_since: cutoff(policy, now),
            only_installed: policy.maximum_bytes.is_some(),
            mounted: leases.caches.clone(),
        }))
    }

    /// Removes logs, downloads and records of local files that have served their time; answers their bytes.
    fn remove_files(&self, policy: &Policy, plan: &Plan, leases: &Leases) -> Result<u64, StoreError> {
        let layout = self.layout();
        let logs = layout.logs();
        let referred: HashSet<PathBuf> = self.referred_logs()?.iter().map(|log| logs.join(log)).collect();
        let logs_of_images = plan.images.iter().flat_map(|image| &image.logs).map(|(_, log)| log);
        let logs_of_layers = plan.layers.iter().filter_map(|layer| layer.log.as_ref());
        let mut going: HashSet<PathBuf> = logs_of_images.chain(logs_of_layers).map(|log| logs.join(log)).collect();
        let now = lease::now();
        if let Some(cutoff) = cutoff(policy, now).map(|cutoff| cutoff.min(leases.oldest.unwrap_or(cutoff))) {
            for directory in [&logs, &layout.downloads(), &layout.contexts(), &layout.conda_indexes()] {
                going.extend(files_in(directory)?.into_iter().filter(|path| modified(path) < cutoff));
            }
        }
        let mut bytes = 0;
        if cutoff(policy, now).is_some_and(|cutoff| cutoff >= now) && leases.oldest.is_none() {
            // The resolver looks after its cache itself; only with everything else, and nobody about, does it go, at once
            // for whoever comes meanwhile.
            let retired = layout.uv_cache().with_extension("retired");
            let _ = fs_err::rename(layout.uv_cache(), &retired);
            bytes += size_of(&retired);
            let _ = fs_err::remove_dir_all(&retired);
        }
        for path in going.difference(&referred) {
            let size = size_of(path);
            match fs_err::remove_file(path) {
                Ok(()) => bytes += size,
                // Logs of several images, files that another process removed, and directories, which are not ours.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    /// Logs that the index names, relative to the directory of logs.
    fn referred_logs(&self) -> Result<Vec<String>, StoreError> {
        let images = self.list_images()?.into_iter().flat_map(|image| image.logs).map(|(_, log)| log);
        let layers = self.shared.index.layers()?.into_iter().filter_map(|layer| layer.log);
        Ok(images.chain(layers).collect())
    }

    /// Names of all trees.
    pub(super) fn published_trees(&self) -> Result<Vec<Digest>, StoreError> {
        let files = files_in(&self.layout().content().join("trees"))?;
        Ok(files.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }
}

/// What no image needs and was not used since this time goes. A store that is too large gives all of that up before any
/// image.
fn cutoff(policy: &Policy, now: i64) -> Option<i64> {
    policy.cutoff(now).max(policy.maximum_bytes.map(|_| now))
}

fn collected(plan: Plan, freed: &Freed) -> Collected {
    let layers = plan.layers.len() as u64;
    Collected { images: plan.images, used: plan.used, layers, packages: freed.packages, bytes: freed.bytes }
}

/// Files of a directory; none if it does not exist.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match fs_err::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// When a file was changed last, in seconds since 1970; what vanished was never changed.
fn modified(path: &Path) -> i64 {
    let time = fs_err::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
    let age = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    age.map_or(0, |age| age.as_secs().cast_signed())
}

/// Bytes on the disk of a file, or of everything below a directory; what cannot be read counts for nothing.
fn size_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = fs_err::symlink_metadata(path) else { return 0 };
    let below = match fs_err::read_dir(path) {
        Ok(entries) if metadata.is_dir() => entries.flatten().map(|entry| size_of(&entry.path())).sum(),
        _ => 0,
    };
    metadata.blocks() * 512 + below
}
