//! Making a base, from the mirror to the finished directory.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lamina_fetch::Download;
use lamina_ground::DEFAULT_PATH;
use lamina_image::{Facts, PackageKind, Python, RuntimeConfig, System, redact};
use lamina_store::{JobTable, Work};
use lamina_workshop::Workshop;

use crate::closure::close;
use crate::configure::{Described, configure};
use crate::install::lay_out::{LayOut, Register};
use crate::install::strip::Strip;
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

/// Registers what the store worker does for bootstraps.
#[must_use]
pub fn jobs(table: JobTable) -> JobTable {
    table
        .register::<LayOut>()
        .register::<UnpackPackage>()
        .register::<UnpackArchive>()
        .register::<Register>()
        .register::<Tidy>()
        .register::<Strip>()
}

/// Bootstraps a base into a new work directory, which the caller commits (as a package step). The output of the
/// maintainer scripts goes to `log`.
///
/// # Errors
/// When the mirror cannot be reached or trusted, its packages do not fit together, or a maintainer script fails.
pub fn bootstrap(
    plan: &DebianPlan,
    workshop: &Workshop<'_>,
    log: &mut (dyn Write + Send),
) -> Result<(Work, Facts), BaseError> {
    if workshop.id_map.is_single() {
        return Err(BaseError::SingleId { command: lamina_sandbox::subordinate_ids_hint() });
    }
    let mirror = mirror::find()?;
    let python = match &plan.python {
        PythonSource::Debian => None,
        PythonSource::Standalone(version) => {
            (workshop.progress)("downloading Python", 0, 0);
            Some(standalone::fetch(version, workshop.programs.uv.as_deref(), workshop.cancel)?)
        }
    };
    (workshop.progress)("reading indexes", 0, 0);
    let downloads = workshop.store.layout().downloads();
    let index = archive::read(plan.suite, &mirror, workshop.fetch, &downloads)?;
    let packages = close(&index, &wanted(plan.suite, plan.python == PythonSource::Debian))
        .map_err(|reason| BaseError::Dependency { suite: plan.suite.name().into(), reason })?;
    // What cannot be logged is no reason to fail.
    let _ = writeln!(log, "{} packages of {} from {} ({})", packages.len(), plan.suite, mirror.archive, mirror.origin);
    workshop.cancel.check()?;

    let work = workshop.store.new_work()?;
    let architecture = architecture()?;
    workshop.store.job(&LayOut { work: work.id().into(), architecture: architecture.into() }, &[])?;
    let unpacked = unpack_all(&packages, &work, &downloads, workshop)?;
    workshop.store.job(&Register { work: work.id().into(), packages: unpacked }, &[])?;
    if let Some(archive) = python {
        workshop
            .store
            .job(&UnpackArchive { work: work.id().into(), target: standalone::PREFIX.into() }, &[archive.as_fd()])?;
    }
    (workshop.progress)("configuring", 0, 0);
    let python = configure(plan, &work, workshop, log)?;
    workshop.store.job(&Tidy::of(plan, work.id()), &[])?;
    let _ = writeln!(log, "{} packages of {}, Python {}", packages.len(), plan.suite, python.version);
    Ok((work, facts(plan, python, &packages)))
}

/// The packages of a base beside the essential ones, with Debian's own Python or without.
pub(crate) fn wanted(suite: Suite, python: bool) -> Vec<&'static str> {
    let mut wanted = ALWAYS.to_vec();
    if python {
        wanted.extend(PYTHON);
    }
    if suite != Suite::Bullseye {
        wanted.push(MERGED_USR);
    }
    wanted
}

/// Downloads the packages and unpacks each as soon as it is there; answers them by name.
pub(crate) fn unpack_all(
    packages: &[&Package],
    work: &Work,
    downloads: &Path,
    workshop: &Workshop<'_>,
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
    (workshop.progress)(if total == 0 { "unpacking" } else { "downloading" }, 0, total);
    let progress = |done| (workshop.progress)("downloading", done, total);
    let arrived = |index: usize, path: PathBuf| {
        let package = packages[index];
        let file = fs_err::File::open(path)?;
        let job =
            UnpackPackage { work: work.id().into(), name: package.name.clone(), version: package.version.clone() };
        let outcome = workshop.store.job(&job, &[file.as_fd()])?;
        unpacked.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        Ok::<_, BaseError>(())
    };
    workshop.fetch.download_all(&files, downloads, CONNECTIONS, &progress, arrived)?;
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
            foreign: None,
        }),
        config: RuntimeConfig {
            environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
            ..RuntimeConfig::default()
        },
        packages: packages.iter().map(package).collect(),
    }
}
