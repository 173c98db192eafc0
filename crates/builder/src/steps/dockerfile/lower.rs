//! The plain steps that a Dockerfile stands for: stages are chains of nodes, of which only those that are needed are made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lamina_dockerfile::{Argument, Command, Health, Instruction, Kind as Word, ParseError, RunMount, Words};
use lamina_image::{
    Action, Dockerfile, DockerfileCopy, DockerfilePlace, DockerfileRun, DockerfileStep, ExistingImage, FromRegistry,
    FromScratch, Healthcheck, Node, NodeId, SecretValues, Step,
};
use lamina_registry::{LocalImage, Reference, ReferenceError};

use crate::BuildError;
use crate::error::Mistake;

/// The nodes of a Dockerfile; the last has the id of `node`.
pub(super) fn lower(file: &Dockerfile, node: &Node) -> Result<Vec<Node>, BuildError> {
    let parsed = lamina_dockerfile::Dockerfile::parse(&file.text).map_err(|ParseError { line, text, message }| {
        let place = DockerfilePlace { file: file.name.clone(), line, text };
        BuildError::invalid(Mistake::Dockerfile { place, message })
    })?;
    let mut lowering = Lowering {
        file,
        node,
        escape: parsed.escape,
        globals: BTreeMap::new(),
        stages: Vec::new(),
        nodes: Vec::new(),
        login: None,
    };
    lowering.read(&parsed.instructions)?;
    lowering.find_login()?;
    let Some(last) = lowering.stages.len().checked_sub(1) else {
        let place = DockerfilePlace { file: file.name.clone(), line: 1, text: String::new() };
        let message = "there is no `FROM`: the first instruction names what the image starts from".to_owned();
        return Err(BuildError::invalid(Mistake::Dockerfile { place, message }));
    };
    let last = match &file.target {
        None => last,
        Some(target) => lowering.find(target).ok_or_else(|| {
            let place = DockerfilePlace { file: file.name.clone(), line: 1, text: String::new() };
            let message = format!("there is no stage `{target}`: `FROM … AS {target}` begins one");
            BuildError::invalid(Mistake::Dockerfile { place, message })
        })?,
    };
    for stage in lowering.needed(last)? {
        lowering.stage(stage, stage == last)?;
    }
    Ok(lowering.nodes)
}

/// What a stage starts from.
#[derive(Clone)]
enum Base {
    /// The image that lines follow.
    Parent(NodeId),
    Scratch,
    Stage(usize),
    /// An image of this machine or of a registry, by its name.
    Image(Box<Step>),
}

struct Stage<'a> {
    name: Option<String>,
    base: Base,
    from: Option<&'a Instruction>,
    instructions: Vec<&'a Instruction>,
}

struct Lowering<'a> {
    file: &'a Dockerfile,
    node: &'a Node,
    escape: char,
    /// Values of `ARG` above all stages, and those that are always there.
    globals: BTreeMap<String, String>,
    stages: Vec<Stage<'a>>,
    nodes: Vec<Node>,
    /// The registry that a login is for.
    login: Option<String>,
}

/// What `FROM`, `COPY --from` and mounts name beside stages.
const SCRATCH: &str = "scratch";
/// The host that published images are on: no registry has this name, so that theirs mean what they mean elsewhere.
const PUBLISHED: &str = "localhost/";
/// What `ARG` need not declare, in letters of either case.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

impl<'a> Lowering<'a> {
    fn place(&self, instruction: &Instruction) -> DockerfilePlace {
        DockerfilePlace { file: self.file.name.clone(), line: instruction.line, text: instruction.text.clone() }
    }

    fn mistake(&self, instruction: &Instruction, message: impl Into<String>) -> BuildError {
        BuildError::invalid(Mistake::Dockerfile { place: self.place(instruction), message: message.into() })
    }

    /// Takes the instructions apart into stages.
    fn read(&mut self, instructions: &'a [Instruction]) -> Result<(), BuildError> {
        self.globals = platform();
        if let Some(parent) = self.node.inputs.first() {
            let base = Base::Parent(parent.clone());
            self.stages.push(Stage { name: None, base, from: None, instructions: Vec::new() });
        }
        for instruction in instructions {
            match &instruction.kind {
                Word::From { image, name, platform } => {
                    if let Some(platform) = platform {
                        self.check_platform(instruction, platform)?;
                    }
                    let image = self.expand(instruction, image)?;
                    let base = self.resolve(instruction, &image)?;
                    self.stages.push(Stage {
                        name: name.clone(),
                        base,
                        from: Some(instruction),
                        instructions: Vec::new(),
                    });
                }
                Word::Arg(arguments) if self.stages.is_empty() => {
                    for Argument { name, default } in arguments {
                        let given = self.file.build_args.get(name).cloned();
                        let default = default.as_ref().map(|default| self.expand(instruction, default)).transpose()?;
                        if let Some(value) = given.or(default) {
                            self.globals.insert(name.clone(), value);
                        }
                    }
                }
                _ => match self.stages.last_mut() {
                    Some(stage) => stage.instructions.push(instruction),
                    None => return Err(self.mistake(instruction, "only `ARG` may stand above the first `FROM`")),
                },
            }
        }
        Ok(())
    }

    /// A word above all stages.
    fn expand(&self, instruction: &Instruction, word: &str) -> Result<String, BuildError> {
        let words = Words { variables: &self.globals, escape: self.escape };
        words.expand(word).map_err(|error| self.mistake(instruction, error.to_string()))
    }

    fn check_platform(&self, instruction: &Instruction, platform: &str) -> Result<(), BuildError> {
        let wanted = self.expand(instruction, platform)?;
        let own = &self.globals["TARGETPLATFORM"];
        if wanted.is_empty() || wanted == *own {
            return Ok(());
        }
        Err(self.mistake(
            instruction,
            format!("images of the platform `{wanted}` cannot run here: this machine is `{own}`"),
        ))
    }

    /// What a name means: a stage above, or an image.
    fn resolve(&self, instruction: &Instruction, name: &str) -> Result<Base, BuildError> {
        if let Some(stage) = self.find(name) {
            return Ok(Base::Stage(stage));
        }
        match name {
            SCRATCH => Ok(Base::Scratch),
            "" => Err(self.mistake(instruction, "it names no image: a variable in it is empty or not set")),
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(self.mistake(instruction, format!("there is no stage `{number}`: the first one is 0")))
            }
            name => match name.strip_prefix(PUBLISHED) {
                Some(published) => {
                    Ok(Base::Image(Box::new(Step::ExistingImage(self.published(instruction, published)?))))
                }
                None => match self.elsewhere(name) {
                    Ok(reference) => {
                        Ok(Base::Image(Box::new(Step::FromRegistry(FromRegistry { reference, provider: None }))))
                    }
                    Err(error) => Err(self.mistake(instruction, format!("`{name}` is no stage above, and {error}"))),
                },
            },
        }
    }

    /// The full name of an image of this machine, whose path is relative to the context, or the name of one of a registry.
    fn elsewhere(&self, name: &str) -> Result<String, ReferenceError> {
        let context = self.file.context.as_ref().map(|context| Path::new(&context.source));
        match LocalImage::parse_below(name, context) {
            Some(local) => Ok(local?.to_string()),
            None => name.parse::<Reference>().map(|_| name.to_owned()),
        }
    }

    /// The published image that `[environment/]name[:tag]` names.
    fn published(&self, instruction: &Instruction, name: &str) -> Result<ExistingImage, BuildError> {
        let (environment, plain) = name.split_once('/').unwrap_or((&self.file.environment, name));
        let (plain, tag) = plain.split_once(':').unwrap_or((plain, "latest"));
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
        };
        if ![environment, plain, tag].into_iter().all(is_word) {
            let message =
                format!("`{PUBLISHED}{name}` names no image: write `{PUBLISHED}NAME` or `{PUBLISHED}NAME:TAG`");
            return Err(self.mistake(instruction, message));
        }
        let [environment, name, tag] = [environment, plain, tag].map(str::to_owned);
        Ok(ExistingImage::Name { environment, name, tag, place: Some(self.place(instruction)) })
    }

    /// The stage of this name or number among those so far.
    fn find(&self, name: &str) -> Option<usize> {
        let of_name = self.stages.iter().rposition(|stage| stage.name.as_deref() == Some(&*name.to_ascii_lowercase()));
        of_name.or_else(|| name.parse().ok().filter(|number| *number < self.stages.len()))
    }

    /// A stage and those that it uses, which all stand above it.
    fn needed(&self, last: usize) -> Result<BTreeSet<usize>, BuildError> {
        let mut needed = BTreeSet::from([last]);
        for number in (0..=last).rev() {
            if !needed.contains(&number) {
                continue;
            }
            if let Base::Stage(base) = self.stages[number].base {
                needed.insert(base);
            }
            for instruction in &self.stages[number].instructions {
                for name in self.used(instruction)? {
                    if let Base::Stage(other) = self.resolve_in(number, instruction, &name)? {
                        needed.insert(other);
                    }
                }
            }
        }
        Ok(needed)
    }

    /// What an instruction of a stage means by a name: a stage before its own.
    fn resolve_in(&self, stage: usize, instruction: &Instruction, name: &str) -> Result<Base, BuildError> {
        match self.resolve(instruction, name)? {
            Base::Stage(other) if other >= stage => Err(self.mistake(
                instruction,
                format!("the stage `{name}` does not end above this line: use one that does, or put it before"),
            )),
            base => Ok(base),
        }
    }

    /// Names of what an instruction uses beside its stage.
    fn used(&self, instruction: &Instruction) -> Result<Vec<String>, BuildError> {
        Ok(match &instruction.kind {
            Word::Copy(transfer) => {
                let from = transfer.options.from.iter();
                from.map(|from| self.expand(instruction, from)).collect::<Result<_, _>>()?
            }
            Word::Run { mounts, .. } => {
                let mut names = Vec::new();
                for mount in mounts {
                    let from = RunMount::named_source(mount);
                    names.extend(from.map_err(|error| self.mistake(instruction, error.to_string()))?);
                }
                names
            }
            _ => Vec::new(),
        })
    }

    fn id(&self, stage: usize, part: impl std::fmt::Display) -> NodeId {
        format!("{}/{stage}/{part}", self.node.id)
    }

    /// The id of the last node of a stage.
    fn end(&self, stage: usize) -> NodeId {
        self.id(stage, "end")
    }

    /// The nodes of a stage.
    fn stage(&mut self, number: usize, is_last: bool) -> Result<(), BuildError> {
        let stage = &self.stages[number];
        let instructions = stage.instructions.clone();
        let start = stage.from.map_or_else(
            || DockerfilePlace { file: self.file.name.clone(), line: 1, text: String::new() },
            |from| self.place(from),
        );
        let (below, begin) = match stage.base.clone() {
            Base::Parent(id) => (id, Action::Stage),
            Base::Stage(other) => (self.end(other), Action::Inherit),
            Base::Scratch => {
                let place = DockerfilePlace { text: "FROM scratch".to_owned(), ..start.clone() };
                (self.base(number, Step::FromScratch(FromScratch {}), &place), Action::Stage)
            }
            Base::Image(step) => (self.base(number, *step, &start), Action::Stage),
        };
        let mut below = self.push(self.id(number, "start"), vec![below], &start, begin);
        for (index, instruction) in instructions.into_iter().enumerate() {
            let others = self.others(number, index, instruction)?;
            let place = self.place(instruction);
            for (part, action) in self.actions(instruction).into_iter().enumerate() {
                let mut inputs = vec![below];
                inputs.extend(others.iter().cloned());
                below = self.push(self.id(number, format!("{index}.{part}")), inputs, &place, action);
            }
        }
        let (id, end) =
            if is_last { (self.node.id.clone(), Action::Stage) } else { (self.end(number), Action::Inherit) };
        self.push(id, vec![below], &start, end);
        Ok(())
    }

    /// Finds out which registry the login is for, if there is one: that of the images which stages start from. No other one is told
    /// it.
    fn find_login(&mut self) -> Result<(), BuildError> {
        if !self.node.secrets.iter().any(|secret| secret.is_login) {
            return Ok(());
        }
        let mut registries: BTreeMap<String, &Instruction> = BTreeMap::new();
        for stage in &self.stages {
            if let (Base::Image(step), Some(from)) = (&stage.base, stage.from) {
                registries.extend(registry(step).map(|registry| (registry, from)));
            }
        }
        if let Some((_, second)) = registries.iter().nth(1) {
            let listed: Vec<_> = registries.keys().map(|registry| format!("`{registry}`")).collect();
            let message = format!(
                "`registry_secret` is the login for one registry, and `FROM` names images of {}",
                listed.join(", ")
            );
            return Err(self.mistake(second, message));
        }
        self.login = registries.into_keys().next();
        Ok(())
    }

    /// The login, where a step is for an image of its registry.
    fn login_for(&self, step: &Step) -> Vec<SecretValues> {
        if self.login.is_none() || registry(step) != self.login {
            return Vec::new();
        }
        let login = self.node.secrets.iter().filter(|secret| secret.is_login);
        login.map(|secret| SecretValues { is_login: false, ..secret.clone() }).collect()
    }

    /// A node that builds on no other one.
    fn base(&mut self, part: impl std::fmt::Display, step: Step, place: &DockerfilePlace) -> NodeId {
        let id = format!("{}/{part}/base", self.node.id);
        let plain = Node {
            inputs: Vec::new(),
            environment: BTreeMap::new(),
            secrets: self.login_for(&step),
            gpu: Vec::new(),
            ..self.node.clone()
        };
        self.nodes.push(Node { id: id.clone(), step, title: title(place), place: Some(place.clone()), ..plain });
        id
    }

    /// The nodes of what an instruction uses beside its stage.
    fn others(&mut self, stage: usize, index: usize, instruction: &Instruction) -> Result<Vec<NodeId>, BuildError> {
        let mut nodes = Vec::new();
        for (part, name) in self.used(instruction)?.into_iter().enumerate() {
            nodes.push(match self.resolve_in(stage, instruction, &name)? {
                Base::Stage(other) => self.end(other),
                Base::Parent(id) => id,
                Base::Scratch => self.base(
                    format!("{stage}/{index}.{part}"),
                    Step::FromScratch(FromScratch {}),
                    &self.place(instruction),
                ),
                Base::Image(step) => self.base(format!("{stage}/{index}.{part}"), *step, &self.place(instruction)),
            });
        }
        Ok(nodes)
    }

    fn push(&mut self, id: NodeId, inputs: Vec<NodeId>, place: &DockerfilePlace, action: Action) -> NodeId {
        let is_run = matches!(action, Action::Run(_));
        let step = DockerfileStep { place: place.clone(), escape: self.escape, action };
        let title = match step.action {
            Action::Stage | Action::Inherit => self.node.title.clone(),
            _ => title(place),
        };
        let mut node = Node { id: id.clone(), inputs, step: Step::Instruction(step), title, ..self.node.clone() };
        node.secrets.retain(|secret| !secret.is_login);
        if !is_run {
            node.environment = BTreeMap::new();
            node.secrets = Vec::new();
            node.gpu = Vec::new();
        }
        self.nodes.push(node);
        id
    }

    /// What an instruction does: a declaration of several arguments is several.
    fn actions(&self, instruction: &Instruction) -> Vec<Action> {
        let context = || self.file.context.clone();
        let shell = |command: &Command, plain: &str| match command {
            Command::Exec(words) => std::iter::once(plain.to_owned()).chain(words.clone()).collect(),
            Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        };
        vec![match instruction.kind.clone() {
            Word::Arg(arguments) => return arguments.into_iter().map(|argument| self.argument(argument)).collect(),
            Word::Env(pairs) => Action::Env(pairs),
            Word::Label(pairs) => Action::Label(pairs),
            Word::Run { command, documents, mounts, network } => Action::Run(DockerfileRun {
                command,
                documents,
                mounts,
                network,
                context: context(),
                proxies: self.proxies(),
            }),
            Word::Copy(transfer) => Action::Copy(DockerfileCopy { transfer, is_add: false, context: context() }),
            Word::Add(transfer) => Action::Copy(DockerfileCopy { transfer, is_add: true, context: context() }),
            Word::Workdir(path) => Action::Workdir(path),
            Word::User(user) => Action::User(user),
            Word::Shell(words) => Action::Shell(words),
            Word::Entrypoint(command) => Action::Entrypoint(command),
            Word::Cmd(command) => Action::Cmd(command),
            Word::Expose(ports) => Action::Expose(ports),
            Word::Volume(paths) => Action::Volume(paths),
            Word::Stopsignal(signal) => Action::Stopsignal(signal),
            Word::Healthcheck(None) => {
                Action::Healthcheck(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() })
            }
            Word::Healthcheck(Some(Health { command, interval, timeout, start_period, start_interval, retries })) => {
                let test = shell(&command, "CMD");
                Action::Healthcheck(Healthcheck { test, interval, timeout, start_period, start_interval, retries })
            }
            Word::Maintainer(name) => Action::Maintainer(name),
            Word::From { .. } => return Vec::new(),
        }]
    }

    /// The proxies that were given, by names in letters of both cases: commands have them without a declaration.
    fn proxies(&self) -> BTreeMap<String, String> {
        let given = self.file.build_args.iter();
        let proxies = given.filter(|(name, _)| PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name)));
        let names = |name: &str| [name.to_ascii_uppercase(), name.to_ascii_lowercase()];
        proxies.flat_map(|(name, value)| names(name).map(|name| (name, value.clone()))).collect()
    }

    fn argument(&self, Argument { name, default }: Argument) -> Action {
        let given = self.file.build_args.get(&name).cloned();
        let of_all = || self.globals.get(&name).filter(|_| default.is_none()).cloned();
        Action::Arg { given: given.or_else(of_all), name, default }
    }
}

/// What people are shown of an instruction.
fn title(place: &DockerfilePlace) -> String {
    lamina_image::redact(&format!("{}:{} {}", place.file, place.line, place.text)).into_owned()
}

/// The registry of the image that a step pulls, if it pulls one.
fn registry(step: &Step) -> Option<String> {
    let Step::FromRegistry(FromRegistry { reference, .. }) = step else { return None };
    reference.parse::<Reference>().ok().map(|reference| reference.registry)
}

/// What `BuildKit` says about the machine that images are for, and about the one that builds them.
fn platform() -> BTreeMap<String, String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut variables = BTreeMap::new();
    for machine in ["TARGET", "BUILD"] {
        variables.insert(format!("{machine}PLATFORM"), format!("linux/{architecture}"));
        variables.insert(format!("{machine}OS"), "linux".to_owned());
        variables.insert(format!("{machine}ARCH"), architecture.to_owned());
        variables.insert(format!("{machine}VARIANT"), String::new());
    }
    variables
}

#[cfg(test)]
mod tests;
