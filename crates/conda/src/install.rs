//! Installing a resolution: download and unpack what the store lacks, then link.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;
use fs_err as fs;
use lamina_fetch::Download;
use lamina_ground::{Stack, StorePath};
use lamina_image::{Package, PackageKind, redact};
use lamina_packages::{Linked, MISSING, NOT_LINKABLE};
use lamina_store::{Job, JobError, JobTable, Work, WorkerContext};
use lamina_workshop::Workshop;
use rattler_conda_types::RepoDataRecord;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::activation::TakeActivation;
use crate::fetch::{local_path, open_local};
use crate::installed::{Environment, Installed, RECORDS, ReadRecords};
use crate::known::{RecallPackage, RememberPackages};
use crate::link::{Finishing, LinkPackages, NO_PYTHON, Outcome, Script, history};
use crate::manifest::{self, descriptions, manifest_name};
use crate::place::{LinkedPackage, Python};
use crate::preparing::{Prepared, Preparing, TakeSources, UnpackSources};
use crate::solve::{Chosen, Resolution};
use crate::unpack::{INVALID, UnpackPackage};
use crate::{CondaError, PREFIX};

/// Downloads at a time.
const CONNECTIONS: usize = 8;

/// Where packages are installed.
pub struct Installation<'a> {
    /// The step's directories; its upper is still bare and not mounted.
    pub work: &'a Work,
    /// Views of the image's layers.
    pub layers: &'a Stack<StorePath>,
    /// What was written down about the environment so far.
    pub environment: &'a Environment,
    /// What scripts have made of packages, once they were run in the uppermost layer.
    pub prepared: Option<Prepared>,
}

/// What came of installing.
#[derive(Debug, Clone)]
pub enum Installing {
    /// The packages are in the step's upper.
    Done(Report),
    /// Nothing is: this is to be done first, and then to be installed once more. Also what the user should know.
    Unprepared(Preparing, Vec<String>),
}

/// What was installed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The packages.
    pub packages: Vec<Package>,
    /// What was done, in lines.
    pub lines: Vec<String>,
    /// What is still to be done in a sandbox.
    pub finishing: Finishing,
}

/// Registers what this crate runs in the store worker.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table
        .register::<UnpackPackage>()
        .register::<LinkPackages>()
        .register::<UnpackSources>()
        .register::<TakeSources>()
        .register::<ReadRecords>()
        .register::<TakeActivation>()
        .register::<QueryPackages>()
        .register::<PublishPackages>()
        .register::<RecallPackage>()
        .register::<RememberPackages>()
        .with_packages(manifest::packages)
}

/// Installs the packages of a resolution into the bare upper of a step.
///
/// # Errors
/// When a package cannot be read or is not installable, or when cancelled. The work is to be discarded then.
pub fn install(
    resolution: &Resolution,
    installation: &Installation<'_>,
    workshop: &Workshop<'_>,
) -> Result<Installing, CondaError> {
    let packages = resolution.install.iter().map(|chosen| Ok((chosen, linked(chosen)?)));
    let run = Run { packages: packages.collect::<Result<_, CondaError>>()?, resolution, installation, workshop };
    // From the first object to the last link nothing names them.
    let _uncollected = workshop.store.hold_off_collection()?;
    match run.install() {
        Err(CondaError::Job(error)) if error.kind == MISSING => {
            // Objects of an earlier unpacking are gone: unpack everything anew, once.
            workshop.store.job(&PublishPackages { names: run.names(), forget: true }, &[])?;
            run.install()
        }
        outcome => outcome,
    }
}

/// A chosen package in the form in which it is installed.
fn linked(chosen: &Chosen) -> Result<LinkedPackage, CondaError> {
    let record = &chosen.record;
    let file_name = record.identifier.to_file_name();
    let wrong = |reason: &str| CondaError::Package { package: file_name.clone(), reason: reason.to_owned() };
    let sha256 = record.package_record.sha256.ok_or_else(|| wrong("the channel's index gives no SHA-256"))?;
    Ok(LinkedPackage {
        name: record.package_record.name.as_normalized().to_owned(),
        sha256: HEXLOWER.encode(&sha256),
        record: serde_json::to_string(record).map_err(|error| wrong(&error.to_string()))?,
        requested: chosen.requested.clone(),
        file_name,
    })
}

/// One attempt to install.
struct Run<'a> {
    packages: Vec<(&'a Chosen, LinkedPackage)>,
    resolution: &'a Resolution,
    installation: &'a Installation<'a>,
    workshop: &'a Workshop<'a>,
}

impl Run<'_> {
    fn install(&self) -> Result<Installing, CondaError> {
        let store = self.workshop.store;
        let is_there = store.job(&QueryPackages { names: self.names() }, &[])?;
        let missing: Vec<usize> = (0..self.packages.len()).filter(|position| !is_there[*position]).collect();
        let remarks = self.obtain(missing)?;
        self.workshop.cancel.check()?;
        (self.workshop.progress)("installing", 0, self.packages.len() as u64);
        store.job(&PublishPackages { names: self.names(), forget: false }, &[])?;
        let outcome = store.job(&self.link_job(), &[]).map_err(|error| match error {
            error if error.kind == NOT_LINKABLE => CondaError::NotLinkable(error.message),
            error if error.kind == NO_PYTHON => CondaError::NoPython(error.message),
            error => error.into(),
        })?;
        Ok(match outcome {
            Outcome::Linked(linked, finishing) => Installing::Done(self.report(remarks, linked, finishing)),
            Outcome::Unprepared(preparing) => Installing::Unprepared(preparing, remarks),
        })
    }

    /// Unpacks packages, from their first places, and what is not had there from their next ones. Answers what the user should
    /// know.
    fn obtain(&self, mut missing: Vec<usize>) -> Result<Vec<String>, CondaError> {
        let mut remarks = Vec::new();
        let places =
            missing.iter().map(|position| self.packages[*position].0.locations.len()).max().unwrap_or_default();
        for attempt in 0..places {
            let done = Mutex::new(HashSet::new());
            let local = |position: &usize| Some((*position, local_path(self.location(*position, attempt))?));
            let (here, there): (Vec<usize>, _) = missing.iter().partition(|position| local(position).is_some());
            let here: Vec<(usize, PathBuf)> = here.iter().filter_map(local).collect();
            match self.unpack_local(&here, &done).and_then(|()| self.fetch(there, attempt, &done)) {
                Ok(()) => break,
                Err(error @ (CondaError::Fetch(_) | CondaError::Local(_))) if attempt + 1 < places => {
                    self.workshop.cancel.check()?;
                    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
                    missing.retain(|position| !done.contains(position));
                    remarks.push(format!("packages are read from the next mirror: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(remarks)
    }

    /// Where a package is read from in this attempt.
    fn location(&self, position: usize, attempt: usize) -> &Url {
        let chosen = self.packages[position].0;
        chosen.locations.get(attempt).or(chosen.locations.last()).unwrap_or(&chosen.record.url)
    }

    fn names(&self) -> Vec<String> {
        self.packages.iter().map(|(_, package)| manifest_name(&package.sha256)).collect()
    }

    /// Unpacks packages of local channels.
    fn unpack_local(&self, local: &[(usize, PathBuf)], done: &Mutex<HashSet<usize>>) -> Result<(), CondaError> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<CondaError>> = Mutex::new(None);
        let lanes = std::thread::available_parallelism().map_or(1, usize::from).min(local.len());
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    while let Some((position, path)) = local.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.unpack(*position, path, true) {
                            next.store(local.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                        done.lock().unwrap_or_else(PoisonError::into_inner).insert(*position);
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Downloads packages and unpacks each as it arrives.
    fn fetch(&self, mut remote: Vec<usize>, attempt: usize, done: &Mutex<HashSet<usize>>) -> Result<(), CondaError> {
        // The largest first: the last ones to arrive are then small and quickly unpacked.
        remote.sort_by_key(|position| std::cmp::Reverse(self.packages[*position].0.record.package_record.size));
        let download = |position: &usize| {
            let (chosen, package) = &self.packages[*position];
            let size = chosen.record.package_record.size;
            Download { url: self.location(*position, attempt).to_string(), sha256: package.sha256.clone(), size }
        };
        let downloads: Vec<Download> = remote.iter().map(download).collect();
        let total = downloads.iter().filter_map(|download| download.size).sum();
        let progress = |bytes: u64| (self.workshop.progress)("downloading", bytes, total);
        let directory = self.workshop.store.layout().downloads();
        self.workshop.fetch.download_all(&downloads, &directory, CONNECTIONS, &progress, |index, path| {
            self.unpack(remote[index], &path, false)?;
            // Another process may have removed it already; what stays is found and used by the next download.
            let _ = fs::remove_file(path);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(remote[index]);
            Ok::<_, CondaError>(())
        })
    }

    fn unpack(&self, position: usize, path: &Path, is_local: bool) -> Result<(), CondaError> {
        self.workshop.cancel.check()?;
        let package = &self.packages[position].1;
        // What was downloaded has been compared.
        let file = if is_local { open_local(path, &package.sha256, self.workshop)? } else { fs::File::open(path)? };
        let job = UnpackPackage { file_name: package.file_name.clone(), sha256: package.sha256.clone() };
        self.workshop.store.job(&job, &[file.as_fd()]).map_err(|error| match error {
            error if error.kind == INVALID => {
                CondaError::Package { package: package.file_name.clone(), reason: error.message }
            }
            error => error.into(),
        })
    }

    fn link_job(&self) -> LinkPackages {
        let removed = &self.resolution.remove;
        let remove = removed.iter().flat_map(|package| {
            let record = format!("{RECORDS}/{}", package.file_name);
            // A record may be anything: only what is below the prefix goes.
            package.files.iter().cloned().chain([record]).filter(|path| crate::archive::check_path(path).is_some())
        });
        let python = self.resolution.python.clone();
        LinkPackages {
            work: self.installation.work.id().to_owned(),
            layers: self.installation.layers.clone(),
            packages: self.packages.iter().map(|(_, package)| package.clone()).collect(),
            python: python.map(|(version, site_packages)| Python { version, site_packages }),
            remove: remove.collect(),
            unlink: removed.iter().filter_map(unlink_script).collect(),
            prepared: self.installation.prepared.clone(),
            history: history(
                &self.installation.environment.history,
                &removed.iter().map(|package| name(&package.record)).collect::<Vec<_>>(),
                &self.packages.iter().map(|(chosen, _)| name(&chosen.record)).collect::<Vec<_>>(),
                &self.resolution.requested,
            ),
            is_new: self.installation.environment.is_new(),
        }
    }

    fn report(&self, mut lines: Vec<String>, linked: Linked, finishing: Finishing) -> Report {
        lines.extend(linked.warnings);
        lines.extend(self.resolution.remove.iter().map(|package| format!("- {}", name(&package.record))));
        lines.extend(self.packages.iter().map(|(chosen, _)| format!("+ {}", name(&chosen.record))));
        let package = |(chosen, package): &(&Chosen, LinkedPackage)| Package {
            kind: PackageKind::Conda,
            name: package.name.clone(),
            version: chosen.record.package_record.version.as_str().into_owned(),
            source: Some(redact(chosen.record.url.as_str()).into_owned()),
            sha256: Some(package.sha256.clone()),
        };
        Report { packages: self.packages.iter().map(package).collect(), lines, finishing }
    }
}

/// The script of a package that is run before it goes.
fn unlink_script(package: &Installed) -> Option<Script> {
    let record = &package.record.package_record;
    let name = record.name.as_normalized();
    let path = format!("bin/.{name}-pre-unlink.sh");
    package.files.contains(&path).then(|| Script {
        path: format!("{PREFIX}/{path}"),
        name: name.to_owned(),
        version: record.version.as_str().into_owned(),
        build_number: record.build_number,
    })
}

/// A package as conda names it: channel, platform, name, version and build.
fn name(record: &RepoDataRecord) -> String {
    let RepoDataRecord { package_record: package, identifier, channel, .. } = record;
    let channel = channel.as_deref().unwrap_or_default().trim_end_matches('/');
    let channel = channel.rsplit('/').next().unwrap_or_default();
    let file_name = identifier.to_file_name();
    let stem = file_name.trim_end_matches(".conda").trim_end_matches(".tar.bz2");
    format!("{channel}/{}::{stem}", package.subdir)
}

/// Asks which packages are unpacked.
#[derive(Serialize, Deserialize)]
struct QueryPackages {
    names: Vec<String>,
}

impl Job for QueryPackages {
    const NAME: &'static str = "conda.query";
    type Output = Vec<bool>;

    fn run(self, context: &WorkerContext, _fds: Vec<std::os::fd::OwnedFd>) -> Result<Vec<bool>, JobError> {
        let descriptions = descriptions(context);
        let is_there = |name: &String| {
            descriptions.touch(name);
            descriptions.is_published(name)
        };
        Ok(self.names.iter().map(is_there).collect())
    }
}

/// Publishes pending manifests, or forgets manifests altogether.
#[derive(Serialize, Deserialize)]
struct PublishPackages {
    names: Vec<String>,
    forget: bool,
}

impl Job for PublishPackages {
    const NAME: &'static str = "conda.publish";
    type Output = ();

    fn run(self, context: &WorkerContext, _fds: Vec<std::os::fd::OwnedFd>) -> Result<(), JobError> {
        if self.forget {
            descriptions(context).forget(&self.names);
            return Ok(());
        }
        descriptions(context).publish(&self.names)
    }
}
