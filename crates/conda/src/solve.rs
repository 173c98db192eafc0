//! Choosing packages.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lamina_image::redact;
use lamina_workshop::Workshop;
use rattler_conda_types::{
    Channel, GenericVirtualPackage, MatchSpec, NoArchType, PackageRecord, ParseStrictness, RepoDataRecord, SolverResult,
};
use rattler_solve::{
    CancellationToken, ChannelPriority, RepoDataIter, SolveError, SolveStrategy, SolverImpl, SolverTask,
    resolvo::Solver,
};
use url::Url;

use crate::installed::Environment;
use crate::repodata::{closure, locations_of, read_all};
use crate::spec_file::Wanted;
use crate::{CondaError, Installed, Request, Settings, VirtualSystem};

/// How long the solver may take: it reads what strangers' channels say.
const TIMEOUT: Duration = Duration::from_mins(10);
/// The channel that is used where none is named.
const DEFAULT_CHANNEL: &str = "conda-forge";

/// What is to become of an environment.
#[derive(Debug, Default)]
pub struct Resolution {
    /// Packages to install, each after those that it needs.
    pub(crate) install: Vec<Chosen>,
    /// Packages that go.
    pub(crate) remove: Vec<Installed>,
    /// The version of the environment's Python afterwards, and where its modules are, below the prefix.
    pub(crate) python: Option<(String, String)>,
    /// The specifications that were asked for.
    pub(crate) requested: Vec<String>,
    /// Requirements for pip, once all that is there.
    pub pip: Vec<String>,
    /// Whether what those need is among them.
    pub is_locked: bool,
    /// Variables that the environment has from now on.
    pub variables: BTreeMap<String, String>,
}

/// A package to install.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) record: RepoDataRecord,
    /// Where it is read from: the places that may have it, in the order in which they are asked.
    pub(crate) locations: Vec<Url>,
    /// The specifications that asked for it.
    pub(crate) requested: Vec<String>,
}

/// Chooses the packages for a request, over those that the environment has.
///
/// # Errors
/// When the request cannot be understood or fulfilled, or a channel cannot be read.
pub fn resolve(
    request: &Request,
    environment: &Environment,
    system: &VirtualSystem<'_>,
    settings: &Settings,
    workshop: &Workshop<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Resolution, CondaError> {
    let installed = &environment.packages[..];
    let wanted = request.file.as_ref().map_or_else(|| Ok(Wanted::default()), crate::SpecFile::read)?;
    let texts = request.packages.iter().chain(&wanted.specs);
    let specs = texts.clone().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut texts: Vec<String> = texts.map(|text| redact(text).into_owned()).collect();
    let optional = request.optional.iter().map(|text| parse(text)).collect::<Result<Vec<_>, _>>()?;
    if wanted.is_locked {
        if !texts.is_empty() {
            return Err(CondaError::SpecFile {
                name: request.file.as_ref().map(|file| file.name.clone()).unwrap_or_default(),
                reason: format!("it lists addresses, beside which `{}` cannot be asked for", texts.join(" ")),
            });
        }
        return take_locked(wanted, installed, settings, workshop);
    }
    let channels = channels(request, &wanted, &specs, settings)?;
    let mut specs = specs.into_iter().map(|spec| of_public_channel(spec, settings)).collect::<Result<Vec<_>, _>>()?;
    (workshop.progress)("reading channels", 0, 0);
    let repodata = read_all(&channels, request.refresh, workshop, say)?;
    let indexes = repodata.iter().map(crate::repodata::Repodata::index).collect::<Result<Vec<_>, _>>()?;
    workshop.cancel.check()?;
    let own = installed.iter().map(|package| package.record.package_record.name.as_normalized().to_owned());
    let named = specs.iter().chain(&optional);
    let names = named.filter_map(|spec| Some(spec.name.as_exact()?.as_normalized().to_owned()));
    let available = closure(&indexes, names.chain(own));
    for (channel, records) in repodata.iter().zip(&available) {
        tracing::info!(index = channel.shown(), packages = records.len(), "an index of a conda channel is read");
    }
    (workshop.progress)("solving", 0, 0);
    let solve = |specs: &[MatchSpec]| solve(specs, environment, &available, &system.packages(), workshop);
    let more: Vec<MatchSpec> = specs.iter().chain(&optional).cloned().collect();
    let is_offered = |spec: &MatchSpec| {
        available.iter().flatten().any(|record| spec.name.as_exact() == Some(&record.package_record.name))
    };
    let solved = if optional.is_empty() || !optional.iter().all(is_offered) {
        solve(&specs)?
    } else {
        match solve(&more) {
            // What fails without them as well is said without them.
            Err(CondaError::Unsolvable { .. } | CondaError::Held { .. }) => solve(&specs)?,
            solved => {
                texts.extend(request.optional.iter().cloned());
                specs = more;
                solved?
            }
        }
    };
    let asked = |record: &RepoDataRecord| {
        let asks = |(spec, _): &(&MatchSpec, &String)| spec.name.as_exact() == Some(&record.package_record.name);
        specs.iter().zip(&texts).filter(asks).map(|(_, text)| text.clone()).collect()
    };
    let choose = |record: RepoDataRecord| Chosen {
        locations: locations_of(&record.url, &indexes),
        requested: asked(&record),
        record,
    };
    let changes = changes(solved.records, installed, &choose);
    Ok(Resolution { requested: texts, pip: wanted.pip, variables: wanted.variables, ..changes })
}

/// What becomes of an environment with packages that are named by address: those of other names stay.
fn take_locked(
    wanted: Wanted,
    installed: &[Installed],
    settings: &Settings,
    workshop: &Workshop<'_>,
) -> Result<Resolution, CondaError> {
    (workshop.progress)("reading packages", 0, 0);
    let found = crate::locked::find(&wanted.locked, settings, workshop)?;
    let mut records: HashMap<_, RepoDataRecord> = HashMap::new();
    let kept = installed.iter().map(|package| package.record.clone());
    for record in kept.chain(found.iter().map(|(record, _)| record.clone())) {
        records.insert(record.package_record.name.clone(), record);
    }
    let choose = |record: RepoDataRecord| {
        let location = found.iter().find(|(other, _)| other.url == record.url);
        let location = location.map_or_else(|| record.url.clone(), |(_, location)| location.clone());
        Chosen { locations: vec![location], requested: Vec::new(), record }
    };
    let mut records: Vec<_> = records.into_values().collect();
    records.sort_by(|one, other| one.package_record.name.cmp(&other.package_record.name));
    let changes = changes(records, installed, &choose);
    Ok(Resolution { pip: wanted.pip, is_locked: true, ..changes })
}

/// What is to be installed and removed so that an environment has these packages.
fn changes(
    records: Vec<RepoDataRecord>,
    installed: &[Installed],
    choose: &dyn Fn(RepoDataRecord) -> Chosen,
) -> Resolution {
    let records = PackageRecord::sort_topologically(records);
    let python = python_of(records.iter().map(|record| &record.package_record));
    let is_other_python = python != python_of(installed.iter().map(|package| &package.record.package_record));
    let mut former: HashMap<_, _> =
        installed.iter().map(|package| (package.record.package_record.name.clone(), package)).collect();
    let mut install = Vec::new();
    let mut remove = Vec::new();
    for record in records {
        let replaced = former.remove(&record.package_record.name);
        let is_moved = is_other_python && record.package_record.noarch == NoArchType::python();
        if replaced.as_ref().is_some_and(|package| is_same(&package.record, &record)) && !is_moved {
            continue;
        }
        remove.extend(replaced.cloned());
        install.push(choose(record));
    }
    remove.extend(former.into_values().cloned());
    tracing::info!(install = install.len(), remove = remove.len(), "conda packages are chosen");
    remove.sort_by(|one, other| one.file_name.cmp(&other.file_name));
    Resolution { install, remove, python, ..Resolution::default() }
}

fn parse(text: &str) -> Result<MatchSpec, CondaError> {
    let wrong = |reason: String| CondaError::Spec { spec: redact(text).into_owned(), reason };
    // An option would be taken for a name with odd letters.
    if text.trim_start().starts_with('-') {
        return Err(wrong("options are not supported".to_owned()));
    }
    let spec = MatchSpec::from_str(text, ParseStrictness::Lenient).map_err(|error| wrong(error.to_string()))?;
    if spec.name.as_exact().is_none() {
        return Err(wrong("it names no package".to_owned()));
    }
    if spec.url.is_some() {
        return Err(wrong("packages are not installed from addresses; put it into a channel".to_owned()));
    }
    Ok(spec)
}

/// The specification with the public address of its channel, which packages have.
fn of_public_channel(mut spec: MatchSpec, settings: &Settings) -> Result<MatchSpec, CondaError> {
    if let Some(channel) = &spec.channel {
        let found = settings.channels(channel.base_url.as_str())?.pop();
        spec.channel = found.map(|channel| Arc::new(Channel::from_url(channel.address)));
    }
    Ok(spec)
}

/// The channels that are named anywhere, the strongest first, each once.
fn channels(
    request: &Request,
    wanted: &Wanted,
    specs: &[MatchSpec],
    settings: &Settings,
) -> Result<Vec<crate::channels::Channel>, CondaError> {
    let mut channels = Vec::new();
    let of_specs = specs.iter().filter_map(|spec| spec.channel.as_ref().map(|channel| channel.base_url.to_string()));
    let mut names: Vec<String> = request.channels.iter().chain(&wanted.channels).cloned().collect();
    if names.iter().all(|name| name == "nodefaults") {
        names.push(DEFAULT_CHANNEL.to_owned());
    }
    for name in names.into_iter().chain(of_specs) {
        for channel in settings.channels(&name)? {
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
    }
    Ok(channels)
}

fn solve(
    specs: &[MatchSpec],
    environment: &Environment,
    available: &[Vec<RepoDataRecord>],
    virtual_packages: &[GenericVirtualPackage],
    workshop: &Workshop<'_>,
) -> Result<SolverResult, CondaError> {
    let held = held(specs, environment);
    let solve = |held: &[String]| {
        let held = held.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        solve_while(held, specs, &environment.packages, available, virtual_packages, workshop)
    };
    match solve(&held) {
        Err(CondaError::Unsolvable { explanation }) if !held.is_empty() && solve(&[]).is_ok() => {
            let held = held.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(" and ");
            Err(CondaError::Held { held, explanation })
        }
        solved => solved,
    }
}

/// Whether specifications name a package.
fn is_named(specs: &[MatchSpec], name: &str) -> bool {
    specs.iter().any(|spec| spec.name.as_exact().is_some_and(|own| own.as_normalized() == name))
}

/// What packages are held to, whatever needs them.
fn held(specs: &[MatchSpec], environment: &Environment) -> Vec<String> {
    let mut held = environment.pinned.clone();
    // As with mamba: who does not ask for another Python keeps its series.
    let series = python_of(environment.packages.iter().map(|package| &package.record.package_record))
        .filter(|_| !is_named(specs, "python"))
        .and_then(|(version, _)| series(&version));
    held.extend(series.map(|series| format!("python {series}.*")));
    held
}

/// Chooses packages while some are held to these specifications.
fn solve_while(
    held: Vec<MatchSpec>,
    specs: &[MatchSpec],
    installed: &[Installed],
    available: &[Vec<RepoDataRecord>],
    virtual_packages: &[GenericVirtualPackage],
    workshop: &Workshop<'_>,
) -> Result<SolverResult, CondaError> {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    let _guard = workshop.cancel.on_cancel(move || cancelled.cancel());
    // What is installed stays installed, in the version that it has if possible.
    let names = installed.iter().map(|package| package.record.package_record.name.as_normalized());
    let kept = names.filter(|name| !is_named(specs, name)).map(parse).collect::<Result<Vec<_>, _>>()?;
    let task = SolverTask {
        available_packages: available.iter().map(RepoDataIter).collect::<Vec<_>>(),
        locked_packages: installed.iter().map(|package| &package.record).collect(),
        pinned_packages: Vec::new(),
        virtual_packages: virtual_packages.to_vec(),
        specs: specs.iter().cloned().chain(kept).collect(),
        constraints: held,
        timeout: Some(TIMEOUT),
        channel_priority: ChannelPriority::Flexible,
        exclude_newer: None,
        strategy: SolveStrategy::Highest,
        dependency_overrides: Vec::new(),
        excluded_candidates: HashMap::new(),
        cancellation_token: Some(token),
    };
    Solver.solve(task).map_err(|error| match error {
        SolveError::Unsolvable(reasons) => {
            CondaError::Unsolvable { explanation: reasons.join("\n").trim_end().to_owned() }
        }
        SolveError::Cancelled => match workshop.cancel.check() {
            Err(cancelled) => cancelled.into(),
            Ok(()) => CondaError::TooLong(TIMEOUT.as_secs() / 60),
        },
        error => CondaError::Unsolvable { explanation: error.to_string() },
    })
}

/// Whether an installed package is the one that was chosen.
fn is_same(installed: &RepoDataRecord, chosen: &RepoDataRecord) -> bool {
    let (one, other) = (&installed.package_record, &chosen.package_record);
    let is_alike = one.version == other.version && one.build == other.build && one.subdir == other.subdir;
    is_alike && one.sha256.zip(other.sha256).is_none_or(|(one, other)| one == other)
}

/// The version of the Python among some packages, and the directory of its modules below the prefix.
fn python_of<'a>(mut packages: impl Iterator<Item = &'a PackageRecord>) -> Option<(String, String)> {
    let python = packages.find(|package| package.name.as_normalized() == "python")?;
    let version = python.version.as_str().into_owned();
    let usual = || Some(format!("lib/python{}/site-packages", series(&version)?));
    let site_packages = python.python_site_packages_path.clone().or_else(usual)?;
    Some((version, site_packages))
}

/// The series of a version of Python: that of `3.11.4` is `3.11`.
pub(crate) fn series(version: &str) -> Option<String> {
    let mut numbers = version.split('.');
    Some(format!("{}.{}", numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_name_packages() {
        for text in ["numpy", "numpy=2.1", "numpy >=2,<3", "conda-forge::numpy", "numpy=2.1=py311*", "NumPy"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in ["", "-c", "--yes", "*", "https://x.invalid/a-1-0.conda", "numpy=="] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` does not say which package is wanted: ")), "{error}");
        }
    }

    #[test]
    fn channels_are_those_that_are_named_in_order() {
        let channels = |request: &[&str], file: &[&str], spec: &str| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let request = Request { channels: owned(request), ..Request::default() };
            let wanted = Wanted { channels: owned(file), ..Wanted::default() };
            let found = channels(&request, &wanted, &[parse(spec).unwrap()], &Settings::default()).unwrap();
            found.into_iter().map(|channel| channel.name).collect::<Vec<_>>()
        };
        assert_eq!(channels(&[], &[], "x"), ["conda-forge"]);
        assert_eq!(channels(&[], &["nodefaults"], "x"), ["conda-forge"]);
        assert_eq!(channels(&["bioconda", "a"], &["a", "b"], "c::x"), ["bioconda", "a", "b", "c"]);
        assert_eq!(channels(&["defaults"], &[], "x"), ["main", "r"]);
        assert_eq!(channels(&["a"], &[], "https://me:hunter2@x.invalid/c::y")[1], "https://***@x.invalid/c/");
    }

    #[test]
    fn a_specification_names_the_public_channel() {
        let address = |text: &str| {
            let spec = of_public_channel(parse(text).unwrap(), &Settings::default()).unwrap();
            spec.channel.unwrap().canonical_name()
        };
        assert_eq!(address("https://me:hunter2@x.invalid/c::y"), "https://x.invalid/c/");
        assert!(address("conda-forge::y").ends_with("/conda-forge/"));
    }
}
