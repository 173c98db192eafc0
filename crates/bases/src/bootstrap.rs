//! Making a base, from the mirror to the finished directory.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lamina_events::CancelToken;
use lamina_fetch::{Client, Download};
use lamina_ground::DEFAULT_PATH;
use lamina_image::{Facts, PackageKind, Python, RuntimeConfig, System, redact};
use lamina_sandbox::{IdMap, Launcher};
use lamina_store::{JobTable, Store, Work};

use crate::closure::close;
use crate::configure::{Described, configure};
use crate::install::lay_out::{LayOut, Register};
use crate::install::tidy::Tidy;
use crate::install::unpack::{UnpackArchive, UnpackPackage, Unpacked};
use crate::packages::Package;
use crate::plan::{FAMILY, architecture};
use crate::{BaseError, DebianPlan, PythonSource, Suite, archive, mirror, standalone};

/// How many packages are downloaded at a time. More make small mirrors and home routers stumble.
const CONNECTIONS: usize = 8;

/// Installed besides the essential packages and those of priority `required`: what brings further packages, and the
/// runtime libraries of compilers, which binary Python packages leave to the system.
const ALWAYS: [&str; 6] = ["apt", "ca-certificates", "libatomic1", "libgfortran5", "libgomp1", "libstdc++6"];
/// Debian's own Python, able to install packages and to make virtual environments.
const PYTHON: [&str; 3] = ["python3", "python3-pip", "python3-venv"];
/// States that `/usr` is merged, where nothing else does; the alternative would do the merging, with much of Perl.
const MERGED_USR: &str = "usr-is-merged";

/// How far a bootstrap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseProgress {
    /// What is being done, for example `downloading`.
    pub what: &'static str,
    /// Units done.
    pub done: u64,
    /// Units in all, 0 when unknown.
    pub total: u64,
}

/// What a bootstrap works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Where the base goes.
    pub store: &'a Store,
    /// Runs the maintainer scripts.
    pub launcher: &'a Launcher,
    /// Gets the packages.
    pub fetch: &'a Client,
    /// The store's id map.
    pub id_map: &'a IdMap,
    /// The host's `uv`, for standalone builds of Python.
    pub uv: Option<&'a Path>,
    /// Told how far it is; called from several threads.
    pub report: &'a (dyn Fn(BaseProgress) + Sync),
    /// Stops it.
    pub cancel: &'a CancelToken,
}

impl Tools<'_> {
    fn report(&self, what: &'static str, done: u64, total: u64) {
        (self.report)(BaseProgress { what, done, total });
    }
}

/// Registers what the store worker does for bootstraps.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table
        .register::<LayOut>()
        .register::<UnpackPackage>()
        .register::<UnpackArchive>()
        .register::<Register>()
        .register::<Tidy>()
}

/// Bootstraps a base into a new work directory, which the caller commits (as a package step). The output of the
/// maintainer scripts goes to `log`.
///
/// # Errors
/// When the mirror cannot be reached or trusted, its packages do not fit together, or a maintainer script fails.
pub fn bootstrap(
    plan: &DebianPlan,
    tools: &Tools<'_>,
    log: &mut (dyn Write + Send),
) -> Result<(Work, Facts), BaseError> {
    if tools.id_map.is_single() {
        return Err(BaseError::SingleId { remedy: lamina_sandbox::subordinate_ids_remedy() });
    }
    let mirror = mirror::find()?;
    let python = match &plan.python {
        PythonSource::Debian => None,
        PythonSource::Standalone(version) => {
            tools.report("downloading Python", 0, 0);
            Some(standalone::fetch(version, tools.uv, tools.cancel)?)
        }
    };
    tools.report("reading indexes", 0, 0);
    let downloads = tools.store.layout().downloads();
    let index = archive::read(plan.suite, &mirror, tools.fetch, &downloads)?;
    let packages = close(&index, &wanted(plan))
        .map_err(|reason| BaseError::Dependency { suite: plan.suite.name().into(), reason })?;
    // What cannot be logged is no reason to fail.
    let _ = writeln!(log, "{} packages of {} from {} ({})", packages.len(), plan.suite, mirror.archive, mirror.origin);
    tools.cancel.check()?;

    let work = tools.store.new_work()?;
    let architecture = architecture()?;
    tools.store.job(&LayOut { work: work.id().into(), architecture: architecture.into() }, &[])?;
    let unpacked = unpack_all(&packages, &work, &downloads, tools)?;
    tools.store.job(&Register { work: work.id().into(), packages: unpacked }, &[])?;
    if let Some(archive) = python {
        tools
            .store
            .job(&UnpackArchive { work: work.id().into(), target: standalone::PREFIX.into() }, &[archive.as_fd()])?;
    }
    tools.report("configuring", 0, 0);
    let python = configure(plan, &work, tools, log)?;
    tools.store.job(&Tidy::of(plan, work.id()), &[])?;
    let _ = writeln!(log, "{} packages of {}, Python {}", packages.len(), plan.suite, python.version);
    Ok((work, facts(plan, python, &packages)))
}

fn wanted(plan: &DebianPlan) -> Vec<&'static str> {
    let mut wanted = ALWAYS.to_vec();
    if plan.python == PythonSource::Debian {
        wanted.extend(PYTHON);
    }
    if plan.suite != Suite::Bullseye {
        wanted.push(MERGED_USR);
    }
    wanted
}

/// Downloads the packages and unpacks each as soon as it is there; answers them by name.
fn unpack_all(
    packages: &[&Package],
    work: &Work,
    downloads: &Path,
    tools: &Tools<'_>,
) -> Result<Vec<Unpacked>, BaseError> {
    // The largest first: a large one that comes last would be unpacked while everything else waits.
    let mut packages = packages.to_vec();
    packages.sort_by_key(|package| std::cmp::Reverse(package.size));
    let files: Vec<_> = packages
        .iter()
        .map(|package| Download {
            url: format!("{}/{}", package.archive, package.filename),
            sha256: package.sha256.clone(),
            size: Some(package.size),
        })
        .collect();
    let missing = files.iter().filter(|file| !downloads.join(&file.sha256).exists());
    let total: u64 = missing.filter_map(|file| file.size).sum();
    let unpacked = Mutex::new(Vec::with_capacity(packages.len()));
    tools.report(if total == 0 { "unpacking" } else { "downloading" }, 0, total);
    let progress = |done| tools.report("downloading", done, total);
    let arrived = |index: usize, path: PathBuf| {
        let package = packages[index];
        let file = fs_err::File::open(path)?;
        let job =
            UnpackPackage { work: work.id().into(), name: package.name.clone(), version: package.version.clone() };
        let outcome = tools.store.job(&job, &[file.as_fd()])?;
        unpacked.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        Ok::<_, BaseError>(())
    };
    tools.fetch.download_all(&files, downloads, CONNECTIONS, &progress, arrived)?;
    let mut unpacked = unpacked.into_inner().unwrap_or_else(PoisonError::into_inner);
    unpacked.sort_by(|left: &Unpacked, right| left.name.cmp(&right.name));
    Ok(unpacked)
}

/// What later steps need to know about the base.
fn facts(plan: &DebianPlan, python: Described, packages: &[&Package]) -> Facts {
    let environment = [("PATH", DEFAULT_PATH), ("LANG", "C.UTF-8")];
    let package = |package: &&Package| lamina_image::Package {
        kind: PackageKind::Deb,
        name: package.name.clone(),
        version: package.version.clone(),
        source: Some(redact(&format!("{}/{}", package.archive, package.filename)).into_owned()),
        sha256: Some(package.sha256.clone()),
    };
    Facts {
        system: Some(System { family: FAMILY.into(), release: plan.suite.name().into(), libc: plan.suite.libc() }),
        python: Some(Python {
            search: vec![
                python.site_packages.clone(),
                "/usr/lib/python3/dist-packages".into(),
                format!("/usr/lib/python{}/dist-packages", plan.series),
            ],
            version: python.version,
            interpreter: python.interpreter,
            prefix: "/usr/local".into(),
            site_packages: python.site_packages,
            scripts: "/usr/local/bin".into(),
        }),
        config: RuntimeConfig {
            environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
            ..RuntimeConfig::default()
        },
        packages: packages.iter().map(package).collect(),
    }
}
