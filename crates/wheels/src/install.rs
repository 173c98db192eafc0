//! Installing a resolution: download, unpack and compile what the store lacks, all at once, then link.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use data_encoding::HEXLOWER;
use fs_err as fs;
use lamina_events::CancelToken;
use lamina_fetch::{Download, FetchError};
use lamina_ground::{Stack, StorePath};
use lamina_image::Digest;
use lamina_packages::{MISSING, NOT_LINKABLE, file_name};
use lamina_store::{Job, JobError, JobTable, Work, WorkerContext};
use lamina_workshop::Workshop;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::bytecode::CompileWheel;
use crate::compilers::{Compilers, Queue};
use crate::direct_url::direct_url;
use crate::error::WheelError;
use crate::installed::SurveyImage;
use crate::interpreter::FindInterpreter;
use crate::link::LinkWheels;
use crate::lock::{Resolution, Source, Wheel};
use crate::manifest::{self, Manifest, descriptions, manifest_name};
use crate::needs::{self, ReadNeeds};
use crate::place::LinkedWheel;
use crate::request::{Installer, Request, Target};
use crate::scripts::ProgramForm;
use crate::unpack::{DANGEROUS, UNUSUAL, UnpackWheel, Unpacked};

/// Downloads at a time.
const CONNECTIONS: usize = 8;

/// Where wheels are installed.
pub struct Installation<'a> {
    /// The step's directories; its upper is not mounted, and has nothing yet where the wheels go.
    pub work: &'a Work,
    /// Views of the image's layers.
    pub layers: &'a Stack<StorePath>,
    /// Those of them that the interpreter comes from: the base's. Compiled bytecode is shared between all images with
    /// the same ones, so nothing that a user's step wrote may be among them.
    pub python_layers: &'a Stack<StorePath>,
    /// The installer that the user asked for.
    pub installer: Installer,
    /// The image's version of pip, if it has any.
    pub pip: Option<&'a str>,
    /// The absolute path of an empty file that the installer leaves behind.
    pub lock: Option<&'a str>,
    /// What was asked for, unless a lock said what to install.
    pub request: Option<&'a Request>,
}

/// What was installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The distributions, as `name==version`.
    pub installed: Vec<String>,
    /// Wheels that had to be downloaded.
    pub downloaded: u64,
    /// Bytes of them.
    pub downloaded_bytes: u64,
    /// Files put in place, bytecode included.
    pub files: u64,
    /// Bytes of them, without bytecode.
    pub bytes: u64,
    /// What the user should know, in sentences.
    pub warnings: Vec<String>,
}

/// Registers what this crate runs in the store worker.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table
        .register::<UnpackWheel>()
        .register::<CompileWheel>()
        .register::<LinkWheels>()
        .register::<SurveyImage>()
        .register::<FindInterpreter>()
        .register::<QueryWheels>()
        .register::<ReadNeeds>()
        .register::<PublishWheels>()
        .with_packages(manifest::packages)
}

/// Installs the wheels of `resolution` for `target` into the upper of a step.
///
/// # Errors
/// When a wheel cannot be downloaded or is not installable, when the image needs the real installer
/// ([`WheelError::NeedsSandbox`]), or when cancelled. The work is to be discarded then.
pub fn install(
    resolution: &Resolution,
    target: &Target,
    installation: &Installation<'_>,
    workshop: &Workshop<'_>,
) -> Result<Report, WheelError> {
    let mut wheels: Vec<&Wheel> = resolution.wheels.iter().collect();
    wheels.sort_by(|one, other| one.name.cmp(&other.name));
    let programs = ProgramForm::of(installation.installer, installation.pip).ok_or_else(|| match installation.pip {
        Some(pip) => WheelError::needs_sandbox(format!("the programs that pip {pip} makes are not known")),
        None => WheelError::needs_sandbox("the image has no pip"),
    })?;
    let bytecode_key = bytecode_key(target, installation.python_layers);
    let run = Run { wheels, target, installation, workshop, programs, bytecode_key };
    // From the first object to the last link nothing names them.
    let _uncollected = workshop.store.hold_off_collection()?;
    match run.install() {
        Err(WheelError::Job(error)) if error.kind == MISSING => {
            // Objects of an earlier unpacking are gone: unpack everything anew, once.
            workshop.store.job(&PublishWheels { names: run.manifest_names(), forget: true }, &[])?;
            run.install()
        }
        outcome => outcome,
    }
}

/// The kind of bytecode that `compile.py` makes: with the time and the size of its source.
const BYTECODE_VERSION: u32 = 2;

/// Names the conditions under which bytecode can be shared.
fn bytecode_key(target: &Target, python_layers: &Stack<StorePath>) -> String {
    let Target { python, base_interpreter, site_packages, .. } = target;
    let conditions = serde_json::json!([BYTECODE_VERSION, python, base_interpreter, site_packages, python_layers]);
    Digest::of(conditions.to_string().as_bytes()).hex()[..16].to_owned()
}

/// One attempt to install.
struct Run<'a> {
    wheels: Vec<&'a Wheel>,
    target: &'a Target,
    installation: &'a Installation<'a>,
    workshop: &'a Workshop<'a>,
    programs: ProgramForm,
    bytecode_key: String,
}

impl Run<'_> {
    fn install(&self) -> Result<Report, WheelError> {
        let store = self.workshop.store;
        let query = QueryWheels {
            wheels: self.wheels.iter().map(|wheel| wheel.sha256.clone()).collect(),
            bytecode_key: self.bytecode_key.clone(),
        };
        let states = store.job(&query, &[])?;
        let report = Mutex::new(Report::default());
        if states.iter().any(|state| !matches!(state, State::Ready)) {
            self.prepare(&states, &report)?;
        }
        self.workshop.cancel.check()?;
        if let Some(request) = self.installation.request {
            let needs = store.job(&needs::reading(&self.wheels), &[])?;
            needs::check(&needs, &self.wheels, request, self.target)?;
        }
        (self.workshop.progress)("installing", 0, self.wheels.len() as u64);
        let linked = std::thread::scope(|scope| {
            let publish = PublishWheels { names: self.manifest_names(), forget: false };
            let published = scope.spawn(move || store.job(&publish, &[]));
            let linked = store.job(&self.link_job(), &[]);
            let gone = |_| Err(JobError::new(JobError::STORE, "publishing wheels failed"));
            published.join().unwrap_or_else(gone).and(linked)
        });
        let linked = linked.map_err(|error| match error {
            error if error.kind == NOT_LINKABLE => WheelError::needs_sandbox(error.message),
            error => error.into(),
        })?;
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.installed = self.wheels.iter().map(|wheel| format!("{}=={}", wheel.name, wheel.version)).collect();
        report.files = linked.files;
        report.bytes = linked.bytes;
        report.warnings.extend(linked.warnings);
        Ok(report)
    }

    /// Downloads, unpacks and compiles what is not ready, each stage feeding the next.
    fn prepare(&self, states: &[State], report: &Mutex<Report>) -> Result<(), WheelError> {
        let queue = Queue::default();
        let mut missing = Vec::new();
        for (position, state) in states.iter().enumerate() {
            match state {
                State::Missing => missing.push(position),
                State::Unpacked { source_bytes } => queue.add(position, *source_bytes),
                State::Ready => {}
            }
        }
        let lanes = std::thread::available_parallelism().map_or(1, usize::from);
        let compilers = Compilers {
            workshop: self.workshop,
            layers: self.installation.python_layers,
            target: self.target,
            bytecode_key: &self.bytecode_key,
        };
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..lanes).map(|_| scope.spawn(|| compilers.work(&queue, &self.wheels))).collect();
            let outcome = self.fetch_and_unpack(&missing, lanes, &queue, report);
            queue.close();
            let warnings: BTreeSet<String> =
                working.into_iter().flat_map(|lane| lane.join().unwrap_or_default()).collect();
            lock(report).warnings.extend(warnings);
            outcome
        })
    }

    /// Gets the missing wheels and unpacks each as it arrives.
    fn fetch_and_unpack(
        &self,
        missing: &[usize],
        lanes: usize,
        queue: &Queue,
        report: &Mutex<Report>,
    ) -> Result<(), WheelError> {
        let (arrived, arrivals) = mpsc::channel::<(usize, PathBuf)>();
        let arrivals = Mutex::new(arrivals);
        let failure: Mutex<Option<WheelError>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    loop {
                        let Ok((position, path)) = lock(&arrivals).recv() else {
                            return;
                        };
                        if lock(&failure).is_some() {
                            continue;
                        }
                        match self.unpack(position, &path) {
                            Ok(unpacked) => queue.add(position, unpacked.source_bytes),
                            Err(error) => drop(lock(&failure).get_or_insert(error)),
                        }
                    }
                });
            }
            let fetched = self.fetch(missing, &arrived, &failure, report);
            drop(arrived);
            fetched
        })?;
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn fetch(
        &self,
        missing: &[usize],
        arrived: &mpsc::Sender<(usize, PathBuf)>,
        failure: &Mutex<Option<WheelError>>,
        report: &Mutex<Report>,
    ) -> Result<(), WheelError> {
        let mut remote: Vec<(usize, Download)> = Vec::new();
        for position in missing {
            let wheel = self.wheels[*position];
            match &wheel.source {
                // The receiving threads live as long as this sender.
                Source::Path(path) => drop(arrived.send((*position, path.clone()))),
                Source::Url(url) => {
                    let download = Download { url: url.clone(), sha256: wheel.sha256.clone(), size: wheel.size };
                    remote.push((*position, download));
                }
            }
        }
        // The largest first: the last ones to arrive are then small and quickly unpacked and compiled.
        remote.sort_by_key(|(_, download)| std::cmp::Reverse(download.size));
        let (positions, downloads): (Vec<usize>, Vec<Download>) = remote.into_iter().unzip();
        let total = downloads.iter().filter_map(|download| download.size).sum();
        let done = AtomicU64::new(0);
        let progress = |bytes: u64| {
            done.fetch_max(bytes, Ordering::Relaxed);
            (self.workshop.progress)("downloading", bytes, total);
        };
        let directory = self.workshop.store.layout().downloads();
        self.workshop
            .fetch
            .download_all(&downloads, &directory, CONNECTIONS, &progress, |index, path| {
                if lock(failure).is_some() {
                    return Err(WheelError::Cancelled(lamina_events::Cancelled));
                }
                let _ = arrived.send((positions[index], path));
                Ok(())
            })
            .or_else(|error| match error {
                // Stopped because a wheel could not be unpacked: that failure is the one to report.
                WheelError::Cancelled(_) if lock(failure).is_some() => Ok(()),
                // The index lets `uv` or pip in, with credentials that only they find.
                WheelError::Fetch(FetchError::Status { url, status: status @ (401 | 403) }) => {
                    Err(WheelError::needs_sandbox(format!("`{url}` answered with status {status}")))
                }
                error => Err(error),
            })?;
        let mut report = lock(report);
        report.downloaded = downloads.len() as u64;
        report.downloaded_bytes = done.into_inner();
        Ok(())
    }

    /// Unpacks a wheel that is here, and removes the download.
    fn unpack(&self, position: usize, path: &Path) -> Result<Unpacked, WheelError> {
        self.workshop.cancel.check()?;
        let wheel = self.wheels[position];
        let mut file = self.open(wheel, path)?;
        if matches!(wheel.source, Source::Path(_)) {
            check_local(wheel, &mut file, self.workshop.cancel)?;
        }
        let job = UnpackWheel { filename: wheel.filename.clone(), sha256: wheel.sha256.clone() };
        let file = OwnedFd::from(file.into_parts().0);
        let unpacked = self.workshop.store.job(&job, &[file.as_fd()]);
        let is_invalid = unpacked.as_ref().is_err_and(|error| [DANGEROUS, UNUSUAL].contains(&error.kind));
        if matches!(wheel.source, Source::Url(_)) && (unpacked.is_ok() || is_invalid) {
            // Another process may have removed it already; what stays is found and used by the next download.
            let _ = fs::remove_file(path);
        }
        unpacked.map_err(|error| match error {
            error if error.kind == DANGEROUS => {
                WheelError::Wheel { wheel: wheel.filename.clone(), detail: error.message }
            }
            error if error.kind == UNUSUAL => {
                WheelError::needs_sandbox(format!("the wheel `{}` is unusual: {}", wheel.filename, error.message))
            }
            error => error.into(),
        })
    }

    /// Opens a wheel that is here; one that another build has unpacked and removed meanwhile is fetched again.
    fn open(&self, wheel: &Wheel, path: &Path) -> Result<fs::File, WheelError> {
        loop {
            match (fs::File::open(path), &wheel.source) {
                (Err(error), Source::Url(url)) if error.kind() == std::io::ErrorKind::NotFound => {
                    let again = Download { url: url.clone(), sha256: wheel.sha256.clone(), size: wheel.size };
                    let directory = self.workshop.store.layout().downloads();
                    self.workshop.fetch.download(&again, &directory, &|_| ())?;
                }
                (file, _) => return Ok(file?),
            }
        }
    }

    fn link_job(&self) -> LinkWheels {
        let wheels = self.wheels.iter().map(|wheel| LinkedWheel {
            name: wheel.name.clone(),
            sha256: wheel.sha256.clone(),
            requested: wheel.requested,
            direct_url: match &wheel.source {
                Source::Url(url) if wheel.direct => {
                    Some(direct_url(url, &wheel.sha256, self.installation.installer, self.installation.pip))
                }
                _ => None,
            },
        });
        LinkWheels {
            work: self.installation.work.id().to_owned(),
            layers: self.installation.layers.clone(),
            target: self.target.clone(),
            installer: self.installation.installer,
            programs: self.programs,
            bytecode_key: self.bytecode_key.clone(),
            wheels: wheels.collect(),
            lock: self.installation.lock.map(str::to_owned),
        }
    }

    fn manifest_names(&self) -> Vec<String> {
        let key = Some(self.bytecode_key.as_str());
        self.wheels.iter().flat_map(|wheel| [manifest_name(&wheel.sha256), file_name(&wheel.sha256, key)]).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wheel of this machine has to be the one that was resolved, too.
fn check_local(wheel: &Wheel, file: &mut fs::File, cancel: &CancelToken) -> Result<(), WheelError> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut cancel.watch(file), &mut hasher)?;
    let found = HEXLOWER.encode(&hasher.finalize());
    if found == wheel.sha256 {
        return Ok(());
    }
    Err(WheelError::Wheel {
        wheel: wheel.filename.clone(),
        detail: format!("its SHA-256 is `{found}`, but `{}` was announced", wheel.sha256),
    })
}

/// How far the store is with a wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// Not unpacked.
    Missing,
    /// Unpacked, but not compiled under the key.
    Unpacked { source_bytes: u64 },
    /// Nothing left to do.
    Ready,
}

/// Asks how far the store is with some wheels.
#[derive(Serialize, Deserialize)]
struct QueryWheels {
    wheels: Vec<String>,
    bytecode_key: String,
}

impl Job for QueryWheels {
    const NAME: &'static str = "wheels.query";
    type Output = Vec<State>;

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<Vec<State>, JobError> {
        let descriptions = descriptions(context);
        let state = |sha256: &String| {
            let (manifest, bytecode) = (manifest_name(sha256), file_name(sha256, Some(&self.bytecode_key)));
            descriptions.touch(&manifest);
            if descriptions.is_published(&bytecode) && descriptions.is_published(&manifest) {
                return State::Ready;
            }
            match descriptions.load_published::<Manifest>(&manifest) {
                Err(_) | Ok(None) => State::Missing,
                Ok(Some(manifest)) => match manifest.source_bytes() {
                    0 => State::Ready,
                    source_bytes => State::Unpacked { source_bytes },
                },
            }
        };
        Ok(self.wheels.iter().map(state).collect())
    }
}

/// Publishes pending manifests, or forgets manifests altogether.
#[derive(Serialize, Deserialize)]
struct PublishWheels {
    names: Vec<String>,
    forget: bool,
}

impl Job for PublishWheels {
    const NAME: &'static str = "wheels.publish";
    type Output = ();

    fn run(self, context: &WorkerContext, _fds: Vec<OwnedFd>) -> Result<(), JobError> {
        if self.forget {
            descriptions(context).forget(&self.names);
            return Ok(());
        }
        descriptions(context).publish(&self.names)
    }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
