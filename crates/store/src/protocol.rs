//! Requests to the worker and its answers.
//!
//! A request is a frame whose control part is an [`Envelope`] around a [`Request`]; the answer carries the same number.
//! Many requests can be in flight. The first one of a connection is [`Request::Start`].

use std::collections::HashSet;
use std::path::PathBuf;

use lamina_image::Digest;
use serde::{Deserialize, Serialize};

use crate::JobError;

/// How an upper is turned into a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRules {
    /// What to leave out.
    pub exclude: Exclude,
    /// Replace the day of the last password change in `/etc/shadow`, which is the day of the build, by that of packages.
    pub constant_password_days: bool,
    /// Give everything one constant time ([`crate::Timestamp::PACKAGE`]), so that equal packages make equal layers whenever
    /// they are installed.
    pub package_times: bool,
    /// Absolute paths in the image that the sandbox made as mount points: left out while empty.
    pub drop_empty: Vec<String>,
}

/// Things that a commit leaves out of the layer and of the view, by exact paths without leading slash; directories stay.
/// That goes for deletions as well: a layer that deletes scratch would differ from one that never saw any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclude {
    /// Paths of files.
    pub files: Vec<String>,
    /// Directories of which everything is left out, at any depth.
    pub below: Vec<String>,
    /// Directories of which what has a certain ending is left out, at their top.
    pub endings: Vec<(String, String)>,
}

impl Exclude {
    /// Whether what is at this path, and is no directory, is left out.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        let inside = |directory: &String| path.strip_prefix(directory.as_bytes())?.strip_prefix(b"/");
        self.files.iter().any(|file| file.as_bytes() == path)
            || self.below.iter().any(|directory| inside(directory).is_some())
            || self.endings.iter().any(|(directory, ending)| {
                inside(directory).is_some_and(|name| !name.contains(&b'/') && name.ends_with(ending.as_bytes()))
            })
    }
}

/// What a commit made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Digest of the layer's diff tree; names its view.
    pub digest: Digest,
    /// Digest of what the layer holds, whenever it was made: what keys are computed from.
    pub content: Digest,
    /// Regular files in the layer.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that the store did not have before.
    pub bytes_new: u64,
}

/// Which files of a step's cache upper go into the shared cache. Patterns have the semantics of
/// [`lamina_image::patterns`] and see paths relative to the cache directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFilter {
    /// What to take; empty takes everything.
    pub include: Vec<String>,
    /// What to leave out of that.
    pub exclude: Vec<String>,
}

/// What a harvest moved into the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harvest {
    /// Files moved.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Envelope of a request or an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// Number that the answer carries.
    pub(crate) id: u64,
    /// What is asked for, or the answer.
    pub(crate) body: T,
}

/// What the engine asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Names the session and removes what dead ones left. The lock files of all of them come along as descriptors, the
    /// session's own first: as long as this process lives, nobody takes its directories for leftovers. Answers how files get
    /// into views.
    Start {
        /// Prefix of the session's directories in `work/`.
        session: String,
        /// Directories in `work/` to remove.
        leftovers: Vec<String>,
    },
    /// Runs a registered job, with the frame's descriptors.
    Job {
        /// The job's name.
        name: String,
        /// The job itself.
        job: serde_json::Value,
    },
    /// Makes `work/<id>` with its upper and work directories.
    NewWork {
        /// The work's name.
        id: String,
    },
    /// Makes an upper and a work directory over a cache.
    NewCacheUpper {
        /// The work's name.
        id: String,
        /// The cache's name.
        cache: String,
    },
    /// Removes `work/<id>`.
    Discard {
        /// The work's name.
        id: String,
    },
    /// Turns an upper into a layer. Answers [`Committed`].
    Commit {
        /// The work's name.
        id: String,
        /// How.
        rules: CommitRules,
    },
    /// Makes a cache directory.
    Cache {
        /// The cache's name.
        cache: String,
    },
    /// Lets a cache begin as a copy of what a layer has, unless it has begun. Answers whether it has.
    BeginCache {
        /// The cache's name.
        cache: String,
        /// The layer; without one nothing is copied.
        layer: Option<Digest>,
    },
    /// Moves new files of a cache upper into the cache. Answers [`Harvest`].
    Harvest {
        /// The work's name.
        id: String,
        /// The cache's name.
        cache: String,
        /// What to take.
        filter: CacheFilter,
    },
    /// Stores the files behind the frame's descriptors. Answers a list of [`Ingested`] in their order.
    Ingest,
    /// Makes a view of the diff tree in the payload and publishes both. Answers [`Published`].
    Publish,
    /// Makes the view of a published tree again. Answers whether that was possible.
    MakeView {
        /// The tree.
        digest: Digest,
    },
    /// Looks at a view's directories. Answers whether they are as they were.
    Look {
        /// The tree.
        digest: Digest,
    },
    /// Checks a view against its tree. Answers a list of sentences.
    Verify {
        /// The tree.
        digest: Digest,
    },
    /// Checks a layer as one of many. Answers a list of sentences.
    Check {
        /// The tree.
        digest: Digest,
    },
    /// Reads all objects whose names begin with a digit. Answers [`CheckedObjects`].
    CheckObjects {
        /// The digit.
        digit: u8,
    },
    /// Copies the bytes of damaged objects from the layer's view, where that still has them.
    Salvage {
        /// The tree.
        digest: Digest,
    },
    /// Makes a damaged layer's view again, or puts the layer aside. Answers [`Repaired`].
    Repair {
        /// The tree.
        digest: Digest,
    },
    /// Puts damaged objects aside whose names begin with a digit.
    SetAside {
        /// The digit.
        digit: u8,
    },
    /// Reads what describes kept packages. Answers [`CheckedPackages`].
    CheckPackages,
    /// Puts descriptions of kept packages aside that are damaged, or name objects that are not there.
    SetPackagesAside,
    /// Measures the content directory. Answers [`ContentUsage`].
    Measure,
    /// Takes away trees and views, so that nobody finds them any more. Answers where they are, for
    /// [`Request::RemoveRetired`].
    Retire {
        /// Names of the trees and views that stay.
        keep: HashSet<Digest>,
    },
    /// Removes what was taken away. Answers the bytes that this gave back.
    RemoveRetired {
        /// Where it is.
        retired: String,
    },
    /// Removes what nothing refers to any more. Answers [`Freed`].
    Sweep(Sweep),
    /// Removes what stores of earlier formats kept in another way.
    RemoveFormer,
    /// Removes everything below the content directory.
    Remove,
}

/// What a sweep removes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sweep {
    /// Kept packages that were not used since this time go, in seconds since 1970.
    pub(crate) packages_unused_since: Option<i64>,
    /// Files of caches that no step brought since this time go, in seconds since 1970.
    pub(crate) caches_unused_since: Option<i64>,
    /// Kept packages of which some object is in no layer go.
    pub(crate) only_installed: bool,
    /// Caches that a running step has mounted.
    pub(crate) mounted: HashSet<String>,
}

/// What a sweep gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Freed {
    /// Bytes on the disk.
    pub(crate) bytes: u64,
    /// Kept packages that were forgotten.
    pub(crate) packages: u64,
}

/// Bytes on the disk below the content directory, every file counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentUsage {
    /// Objects.
    pub(crate) objects: u64,
    /// Directories of views, and their files that are no objects.
    pub(crate) views: u64,
    /// Caches of package managers.
    pub(crate) caches: u64,
    /// Everything else: trees, descriptions of packages, unfinished work.
    pub(crate) other: u64,
}

/// What reading objects found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckedObjects {
    /// How many were read.
    pub(crate) count: u64,
    /// Where damaged ones are, relative to the content directory.
    pub(crate) damaged: Vec<PathBuf>,
}

/// What reading descriptions of kept packages found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckedPackages {
    /// How many packages there are.
    pub(crate) count: u64,
    /// The damaged ones.
    pub(crate) damaged: Vec<DamagedDescription>,
}

/// A description of a kept package that is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedDescription {
    /// Where it is, relative to the content directory.
    pub path: PathBuf,
    /// What is wrong with it, to be said after its path.
    pub problem: String,
}

/// What became of a damaged layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Repaired {
    /// It is whole again.
    Restored,
    /// It cannot be made from what is there, and was put aside.
    Lost,
}

/// A local file that was stored.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ingested {
    /// Digest of the bytes.
    pub(crate) digest: Digest,
    /// How many there were.
    pub(crate) size: u64,
    /// Whether the store did not have them.
    pub(crate) is_new: bool,
}

/// Whether a view could be made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Published {
    /// View and tree are published under this digest.
    Done(Digest),
    /// Nothing was published: the store lacks the contents with these digests.
    Missing(Vec<Digest>),
}

/// What the worker answers.
pub(crate) type Answer = Result<serde_json::Value, JobError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_an_exact_list() {
        let exclude = Exclude {
            files: vec!["etc/shadow-".to_owned()],
            below: vec!["var/lib/apt/lists".to_owned()],
            endings: vec![("var/cache/apt".to_owned(), ".bin".to_owned())],
        };
        for path in ["etc/shadow-", "var/lib/apt/lists/x", "var/lib/apt/lists/auxfiles/x", "var/cache/apt/pkgcache.bin"]
        {
            assert!(exclude.covers(path.as_bytes()), "{path}");
        }
        for path in [
            "etc/shadow",
            "tmp/etc/shadow-",
            "etc/shadow-/x",
            "var/lib/apt/listsx",
            "var/lib/apt/lists",
            "var/cache/apt/sub/x.bin",
            "var/cache/aptx.bin",
        ] {
            assert!(!exclude.covers(path.as_bytes()), "{path}");
        }
    }
}
