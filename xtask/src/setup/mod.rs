//! `cargo xtask setup`: sees to everything the other verbs need, and says what it did.
//!
//! Facts decide, not notes of an earlier run: compilers and linkers are asked for their versions, files are looked
//! for, and at the end a small program is compiled to BPF. Where all is there this takes less than a second.

mod apt;
mod compiler;
mod helm;
mod linker;
mod proof;
mod tools;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use self::apt::Apt;
use crate::process;
use crate::repository::Repository;
use crate::toolchain::{Compiler, Linker, Toolchain};

/// Something that is missing, and how a person would install it.
#[derive(Debug)]
pub(crate) struct Gap {
    what: String,
    by_hand: Vec<String>,
}

/// One run of xtask: what it may do, and the package manager it shares.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) repository: &'a Repository,
    may_install: bool,
    apt: Option<Apt>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(repository: &'a Repository, no_install: bool) -> Self {
        Self {
            repository,
            may_install: !no_install,
            apt: Apt::open(),
        }
    }

    /// The verb: everything, with a few lines of what is there now.
    pub(crate) fn everything(&mut self) -> Result<Toolchain> {
        let start = Instant::now();
        self.refuse_gaps(self.all_gaps())?;
        tools::install(self)?;
        helm::install(self)?;
        install_components()?;
        let toolchain = self.toolchain()?;
        println!("setup: compiler: {}", toolchain.compiler);
        println!(
            "setup: linker:   {} (LLVM {})",
            toolchain.linker.program.display(),
            toolchain.linker.llvm
        );
        let clippy = toolchain.clippy_program().is_some() || (self.may_install && tools::install_bpf_clippy(self)?);
        if !clippy {
            println!("setup: no clippy for the kernel programs' compiler: lint leaves them out");
        }
        proof::compile(self.repository, &toolchain)?;
        println!("setup: proof:    a small program compiles to a BPF object");
        println!("setup: all there ({:.1} s)", start.elapsed().as_secs_f64());
        Ok(toolchain)
    }

    /// Compiler and linker for BPF; silent where they are there.
    pub(crate) fn toolchain(&mut self) -> Result<Toolchain> {
        if let Some(toolchain) = Toolchain::find(self.repository) {
            return Ok(toolchain);
        }
        self.refuse_gaps(self.toolchain_gaps())?;
        let compiler = match Compiler::find() {
            Some(compiler) => compiler,
            None => compiler::install(self)?,
        };
        let linker = match Linker::find(self.repository, compiler.rustc.llvm) {
            Some(linker) => linker,
            None => linker::install(self, &compiler)?,
        };
        Ok(Toolchain { compiler, linker })
    }

    /// The programs that labs, demo and benches call; silent where they are there.
    pub(crate) fn tools(&mut self) -> Result<()> {
        self.refuse_gaps(tools::gap().into_iter().collect())?;
        tools::install(self)
    }

    /// Helm, which only tests want; silent where it is there.
    pub(crate) fn helm(&mut self) -> Result<()> {
        self.refuse_gaps(helm::gap(self.repository).into_iter().collect())?;
        helm::install(self)
    }

    /// rustfmt and clippy; silent where they are there.
    pub(crate) fn components(&mut self) -> Result<()> {
        self.refuse_gaps(component_gap().into_iter().collect())?;
        install_components()
    }

    /// Under `--no-install` whatever is missing is an error that says how to get it.
    fn refuse_gaps(&self, gaps: Vec<Gap>) -> Result<()> {
        if self.may_install || gaps.is_empty() {
            return Ok(());
        }
        let what: Vec<_> = gaps.iter().map(|gap| gap.what.as_str()).collect();
        let mut by_hand: Vec<_> = gaps.iter().flat_map(|gap| &gap.by_hand).map(String::as_str).collect();
        if !apt::has_lists() && by_hand.iter().any(|line| line.starts_with("apt-get")) {
            by_hand.insert(0, "apt-get update");
        }
        bail!(
            "missing, and --no-install forbids installing it:\n  {}\nBy hand, as root where packages are installed:\n  {}",
            what.join("\n  "),
            by_hand.join("\n  ")
        )
    }

    fn all_gaps(&self) -> Vec<Gap> {
        let mut gaps: Vec<_> = tools::gap().into_iter().chain(component_gap()).collect();
        gaps.extend(helm::gap(self.repository));
        gaps.extend(self.toolchain_gaps());
        gaps
    }

    fn toolchain_gaps(&self) -> Vec<Gap> {
        let compiler = Compiler::find();
        let llvm = compiler.as_ref().map(|compiler| compiler.rustc.llvm);
        let mut gaps = Vec::new();
        if compiler.is_none() {
            gaps.push(Gap {
                what: "a compiler with a core library for BPF".into(),
                by_hand: compiler::by_hand(),
            });
        }
        if llvm.and_then(|llvm| Linker::find(self.repository, llvm)).is_none() {
            gaps.push(Gap {
                what: "bpf-linker".into(),
                by_hand: linker::by_hand(self.repository, llvm),
            });
        }
        gaps
    }
}

/// Components of the host's toolchain that rustup's minimal profile leaves out.
const COMPONENTS: [&str; 2] = ["rustfmt", "clippy"];

fn missing_components() -> Vec<&'static str> {
    let answers = |component: &&&str| {
        let program = process::find_program(if **component == "clippy" {
            "cargo-clippy"
        } else {
            "rustfmt"
        });
        // rustup's proxies are there even when the component is not.
        program.is_some_and(|program| process::capture(Command::new(program).arg("--version")).is_ok())
    };
    COMPONENTS
        .iter()
        .filter(|component| !answers(component))
        .copied()
        .collect()
}

fn component_gap() -> Option<Gap> {
    let missing = missing_components();
    let by_hand = || vec![format!("rustup component add {}", missing.join(" "))];
    (!missing.is_empty()).then(|| Gap {
        what: missing.join(" and "),
        by_hand: by_hand(),
    })
}

fn install_components() -> Result<()> {
    let missing = missing_components();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(rustup) = process::find_program("rustup") else {
        bail!(
            "{} missing, and there is no rustup to add it: install it as you installed cargo",
            missing.join(" and ")
        );
    };
    println!("setup: adding {} (rustup)", missing.join(" and "));
    process::capture(Command::new(rustup).args(["component", "add"]).args(&missing))
        .map(drop)
        .with_context(|| format!("cannot add {} to the toolchain of this folder", missing.join(" and ")))
}
