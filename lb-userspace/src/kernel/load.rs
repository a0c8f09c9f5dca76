//! Loading the object: maps pinned or adopted from pins, programs verified by the kernel.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::Map,
    programs::{CgroupSockAddr, Program, SchedClassifier, Xdp},
};
use lb_common::layout::names;
use rustix::io::Errno;

/// What can be chosen when the object is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Folder of map pins: maps pinned there are adopted, others are created and pinned. Without it nothing is pinned
    /// and all ends with the process.
    pub maps: Option<PathBuf>,
    /// Entries of each flow table, where it has to be created.
    pub flows_max: u32,
    /// Entries of each table of ways, where it has to be created: XDP alone uses it.
    pub ways_max: u32,
    /// Programs that are loaded when they are asked for, through the pinned maps: the verifier takes a second for one, and no node needs all.
    pub later: &'static [&'static str],
}

/// Those for devices without link header, which few nodes have.
pub const RARE_PROGRAMS: &[&str] = &[names::TC_L3_INGRESS, names::TC_L3_EGRESS];
/// The same, where XDP is not wanted.
pub const RARE_PROGRAMS_WITHOUT_XDP: &[&str] = &[names::TC_L3_INGRESS, names::TC_L3_EGRESS, names::XDP];

/// The loaded object: maps open, programs verified.
pub struct Datapath {
    ebpf: Ebpf,
    /// What programs that are loaded later are loaded from.
    object: Cow<'static, [u8]>,
    options: LoadOptions,
    /// Those that were asked for, each with maps of its own, which are those of the pins.
    later: BTreeMap<String, Ebpf>,
    /// Why the kernel doesn't take the socket programs, if it doesn't.
    sockets_refused: Option<String>,
}

/// The object that was built into this binary.
///
/// # Errors
/// If the binary was built without one.
pub fn object() -> Result<&'static [u8]> {
    #[cfg(sluice_bpf_object)]
    {
        Ok(aya::include_bytes_aligned!(env!("SLUICE_BPF_OBJECT")))
    }
    #[cfg(not(sluice_bpf_object))]
    {
        Err(anyhow!(
            "this sluice was built without its kernel programs; run `cargo xtask build`, which makes them first"
        ))
    }
}

impl Datapath {
    /// Loads maps and programs.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program; the message has the kernel's reason and the verifier's last lines.
    pub fn load(options: &LoadOptions) -> Result<Self> {
        Self::load_from(object()?.into(), options)
    }

    /// Loads another object than the one built in: for tests and benches.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_object(object: &[u8], options: &LoadOptions) -> Result<Self> {
        Self::load_from(object.to_vec().into(), options)
    }

    fn load_from(object: Cow<'static, [u8]>, options: &LoadOptions) -> Result<Self> {
        let mut ebpf = load_maps(&object, options)?;
        for name in names::PROGRAMS.iter().chain(names::SOCKET_PROGRAMS) {
            ebpf.program(name)
                .with_context(|| format!("the object has no program {name}"))?;
        }
        // Now, since programs name tables by descriptors, which change hands later. All at once: the verifier takes one CPU for each,
        // and longer than all else at a start.
        let refused: Vec<(String, anyhow::Error)> = thread::scope(|scope| {
            let loading: Vec<_> = ebpf
                .programs_mut()
                .filter(|(name, _)| !options.later.contains(name))
                .map(|(name, program)| (name.to_owned(), scope.spawn(move || load_program(program))))
                .collect();
            let results = loading.into_iter().map(|(name, loading)| {
                let result = loading.join().unwrap_or_else(|_| Err(anyhow!("loading it panicked")));
                (name, result)
            });
            results
                .filter_map(|(name, result)| Some((name, result.err()?)))
                .collect()
        });
        let mut sockets_refused = None;
        for (name, error) in refused {
            let remedy = remedy(&error);
            let error = anyhow!("the kernel refused program {name}: {error:#}: {remedy}");
            if !names::SOCKET_PROGRAMS.contains(&name.as_str()) {
                return Err(error);
            }
            sockets_refused = Some(format!("{error:#}"));
        }
        Ok(Self {
            ebpf,
            object,
            options: options.clone(),
            later: BTreeMap::new(),
            sockets_refused,
        })
    }

    /// A program, loaded now if it was to be loaded later.
    fn program_mut(&mut self, name: &str) -> Result<&mut Program> {
        let missing = || format!("the object has no program {name}");
        if !self.options.later.contains(&name) {
            return self.ebpf.program_mut(name).with_context(missing);
        }
        if !self.later.contains_key(name) {
            let mut ebpf = load_maps(&self.object, &self.options)?;
            load_program(ebpf.program_mut(name).with_context(missing)?)
                .with_context(|| format!("the kernel refused program {name}"))?;
            self.later.insert(name.to_owned(), ebpf);
        }
        let ebpf = self.later.get_mut(name);
        ebpf.and_then(|ebpf| ebpf.program_mut(name)).with_context(missing)
    }

    /// Whether the kernel has taken the socket programs, without which the rest works.
    ///
    /// # Errors
    /// Why it hasn't.
    pub fn socket_programs(&self) -> Result<()> {
        match &self.sockets_refused {
            None => Ok(()),
            Some(reason) => Err(anyhow!("{reason}")),
        }
    }

    /// A socket program, by its name in [`names`].
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn socket_program(&mut self, name: &str) -> Result<&mut CgroupSockAddr> {
        let program = self.program_mut(name)?;
        program
            .try_into()
            .with_context(|| format!("{name} is no socket program"))
    }

    /// Takes a map out, by its name in [`names`].
    ///
    /// # Errors
    /// If the object has no such map or it was taken before.
    pub fn take_map(&mut self, name: &str) -> Result<Map> {
        self.ebpf
            .take_map(name)
            .with_context(|| format!("the object has no map {name}, or it was taken already"))
    }

    /// A tc program, by its name in [`names`].
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.program_mut(name)?;
        program.try_into().with_context(|| format!("{name} is no tc program"))
    }

    /// An XDP program, by its name in [`names`].
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.program_mut(name)?;
        program.try_into().with_context(|| format!("{name} is no XDP program"))
    }

    /// The kernel's number of a program; nothing if it doesn't tell.
    pub fn program_id(&self, name: &str) -> Option<u32> {
        let ebpf = self.later.get(name).unwrap_or(&self.ebpf);
        ebpf.program(name)?.info().ok().map(|info| info.id())
    }

    /// How many instructions the verifier walked for each program that is loaded: the measure of the verifier budget.
    ///
    /// # Errors
    /// If the kernel does not tell (before 5.16).
    pub fn verified_instructions(&self) -> Result<Vec<(&'static str, u32)>> {
        let named = names::PROGRAMS.iter().chain(names::SOCKET_PROGRAMS);
        let is_loaded = |name: &&str| self.ebpf.program(name).is_none_or(|program| program.fd().is_ok());
        named
            .copied()
            .filter(is_loaded)
            .map(|name| {
                let program = self
                    .ebpf
                    .program(name)
                    .with_context(|| format!("the object has no program {name}"))?;
                let count = program
                    .info()?
                    .verified_instruction_count()
                    .context("the kernel does not tell verified instructions (needs 5.16)")?;
                Ok((name, count))
            })
            .collect()
    }
}

/// The maps, created or adopted, and programs that refer to them.
fn load_maps(object: &[u8], options: &LoadOptions) -> Result<Ebpf> {
    let pins: Vec<(&str, PathBuf)> = options
        .maps
        .iter()
        .flat_map(|folder| names::MAPS.iter().map(move |name| (*name, folder.join(name))))
        .collect();
    let mut loader = EbpfLoader::new();
    for name in [names::CT4_FLOWS, names::CT6_FLOWS] {
        loader.map_max_entries(name, options.flows_max);
    }
    for name in [names::CT4_WAYS, names::CT6_WAYS] {
        loader.map_max_entries(name, options.ways_max);
    }
    for (name, path) in &pins {
        loader.map_pin_path(name, path.as_path());
    }
    let is_new = |(_, path): &&(&str, PathBuf)| !path.exists();
    let new: Vec<&PathBuf> = pins.iter().filter(is_new).map(|(_, path)| path).collect();
    loader.load(object).map_err(|error| {
        // Half of the tables are of no use to anybody, and would keep their memory.
        for pin in new.into_iter().filter(|pin| pin.exists()) {
            if let Err(error) = fs::remove_file(pin) {
                tracing::warn!(%error, pin = %pin.display(), "left behind by a start that failed; remove it by: sluice cleanup");
            }
        }
        let error = match error {
            EbpfError::MapError(error) => anyhow::Error::from(error),
            error => error.into(),
        };
        let remedy = remedy(&error);
        anyhow!("create the kernel tables: {error:#}: {remedy}")
    })
}

fn load_program(program: &mut Program) -> Result<()> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        _ => return Err(anyhow!("it has a type that Sluice does not know")),
    }
    Ok(())
}

/// What to do about the usual refusals.
fn remedy(error: &anyhow::Error) -> &'static str {
    let errno = error
        .chain()
        .find_map(|cause| Errno::from_io_error(cause.downcast_ref()?));
    match errno {
        Some(Errno::PERM) => "the process lacks CAP_BPF (and CAP_NET_ADMIN, CAP_PERFMON): run as root or grant them",
        Some(Errno::NOMEM) => {
            "the kernel has no memory for this. Raise the memory limit of the agent's cgroup (its pod's), which the tables count \
             against, or ask for smaller flow tables with --flows-max"
        }
        Some(Errno::ROFS) => "the BPF file system is read-only: remount it writable, or choose another --pin-dir",
        _ => "run `sluice doctor` to see what this kernel lacks",
    }
}

/// Opens a pinned map without loading anything: what the command line reads from.
///
/// # Errors
/// If there is no such pin or the kernel refuses to open it.
pub(crate) fn open_pinned_map(maps: &Path, name: &str) -> Result<Map> {
    let path = maps.join(name);
    let data =
        aya::maps::MapData::from_pin(&path).with_context(|| format!("open the pinned table {}", path.display()))?;
    Map::from_map_data(data).with_context(|| format!("{} is no table of Sluice's", path.display()))
}
