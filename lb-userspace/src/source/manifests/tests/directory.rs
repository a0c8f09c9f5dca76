//! What a look at the directory finds out, with real files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use tempfile::TempDir;

use super::{service, slice, words};
use crate::source::manifests::directory::{Directory, Scan};

/// A directory, and a clock that is far enough ahead for every file to have settled.
struct Lab {
    temp: TempDir,
    directory: Directory,
    now: SystemTime,
}

impl Lab {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::new(temp.path().to_owned(), "here");
        Self {
            temp,
            directory,
            now: SystemTime::now() + Duration::from_secs(60),
        }
    }

    /// A directory with `web.yaml`, which declares the Service `web`, read.
    fn with_web() -> Self {
        let mut lab = Self::new();
        lab.write("web.yaml", &service("web", "10.96.0.1"));
        assert_eq!(lab.changes(), ["+default/web"]);
        lab
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn scan_after(&mut self, passed: Duration) -> Scan {
        self.now += passed;
        self.directory.scan(self.now)
    }

    /// Changes of a look some time later.
    fn changes(&mut self) -> Vec<String> {
        words(&self.scan_after(Duration::from_secs(1)).changes)
    }

    /// Problems of a look some time later, without the directory's own path.
    fn problems(&mut self) -> Vec<String> {
        let scan = self.scan_after(Duration::from_secs(1));
        let prefix = format!("{}/", self.temp.path().display());
        scan.problems
            .iter()
            .map(|problem| problem.to_string().replace(&prefix, ""))
            .collect()
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_file_that_stays_the_same_says_nothing_new() {
    let mut lab = Lab::with_web();
    assert_eq!(lab.changes(), NOTHING);
}

#[test]
fn a_file_written_in_place_is_read_again() {
    let mut lab = Lab::with_web();
    lab.write("web.yaml", &service("web", "10.96.0.2"));
    assert_eq!(lab.changes(), ["+default/web"]);
}

#[test]
fn a_file_replaced_by_renaming_is_read_again() {
    let mut lab = Lab::with_web();
    lab.write(".web.yaml.new", &service("api", "10.96.0.2"));
    fs::rename(lab.path(".web.yaml.new"), lab.path("web.yaml")).unwrap();
    assert_eq!(lab.changes(), ["+default/api", "-default/web"]);
}

/// As the kubelet mounts a ConfigMap: files link into `..data`, which is swapped for a new directory in one rename.
#[test]
fn a_config_map_is_swapped_as_a_whole() {
    let mut lab = Lab::new();
    let put = |lab: &Lab, version: &str, files: &[(&str, String)]| {
        fs::create_dir(lab.path(version)).unwrap();
        for (name, text) in files {
            fs::write(lab.path(version).join(name), text).unwrap();
            let _ = symlink(Path::new("..data").join(name), lab.path(name));
        }
        symlink(version, lab.path("..data_tmp")).unwrap();
        fs::rename(lab.path("..data_tmp"), lab.path("..data")).unwrap();
    };
    put(
        &lab,
        "..2026_1",
        &[
            ("web.yaml", service("web", "10.96.0.1")),
            ("api.yaml", service("api", "10.96.0.2")),
        ],
    );
    assert_eq!(lab.changes(), ["+default/api", "+default/web"]);
    put(&lab, "..2026_2", &[("web.yaml", service("web", "10.96.0.9"))]);
    assert_eq!(lab.changes(), ["+default/web"]);
    assert_eq!(lab.changes(), ["-default/api"], "its link leads nowhere now");
}

#[test]
fn a_broken_file_is_reported_and_changes_nothing() {
    let mut lab = Lab::with_web();
    lab.write("web.yaml", "kind: Service\nspec: [\n");
    let scan = lab.scan_after(Duration::from_secs(1));
    assert!(scan.changes.is_empty());
    let problem = scan.problems[0].to_string();
    assert!(
        problem.contains("web.yaml:2: ") && problem.ends_with("what the file said before stays in force"),
        "{problem}"
    );
    assert_eq!(lab.problems().len(), 1, "it stays reported");
    lab.write("web.yaml", &service("web", "10.96.0.2"));
    assert_eq!(lab.changes(), ["+default/web"]);
    assert_eq!(lab.problems(), NOTHING);
}

#[test]
fn a_broken_file_does_not_concern_its_neighbours() {
    let mut lab = Lab::with_web();
    lab.write("web.yaml", "]");
    lab.write("a.json", "{");
    lab.write(
        "api.yml",
        &format!(
            "{}---\n{}",
            service("api", "10.96.0.2"),
            slice("api-1", "api", "10.0.0.1")
        ),
    );
    assert_eq!(lab.changes(), ["~+default/api-1", "+default/api"]);
    assert_eq!(lab.problems().len(), 2);
}

#[test]
fn a_deleted_file_withdraws_its_objects_once_it_is_surely_gone() {
    let mut lab = Lab::with_web();
    fs::remove_file(lab.path("web.yaml")).unwrap();
    let scan = lab.scan_after(Duration::from_secs(1));
    assert!(
        scan.changes.is_empty() && scan.look_again_in.is_some(),
        "it may be on its way back"
    );
    assert_eq!(lab.changes(), ["-default/web"]);
    assert_eq!(lab.changes(), NOTHING);
}

#[test]
fn a_file_that_an_editor_renames_and_writes_anew_never_goes() {
    let mut lab = Lab::with_web();
    fs::rename(lab.path("web.yaml"), lab.path("web.yaml~")).unwrap();
    assert_eq!(words(&lab.scan_after(Duration::from_millis(5)).changes), NOTHING);
    lab.write("web.yaml", &service("web", "10.96.0.1"));
    assert_eq!(lab.changes(), NOTHING);
    assert_eq!(lab.changes(), NOTHING);
}

#[test]
fn an_emptied_file_is_not_a_deleted_one() {
    let mut lab = Lab::with_web();
    lab.write("web.yaml", "");
    assert_eq!(lab.changes(), NOTHING);
    assert!(lab.problems()[0].starts_with("web.yaml: the file is empty"));
    lab.write("web.yaml", "# nothing any more\n");
    assert_eq!(
        lab.changes(),
        ["-default/web"],
        "but a file that says nothing on purpose is"
    );
}

#[test]
fn a_file_just_written_to_is_given_a_moment() {
    let mut lab = Lab::with_web();
    lab.write("web.yaml", &service("web", "10.96.0.2"));
    let written = fs::metadata(lab.path("web.yaml")).unwrap().modified().unwrap();
    let scan = lab.directory.scan(written + Duration::from_millis(1));
    assert!(scan.changes.is_empty() && scan.look_again_in.unwrap() <= Duration::from_millis(20));
    assert_eq!(
        words(&lab.directory.scan(written + Duration::from_millis(25)).changes),
        ["+default/web"]
    );
}

#[test]
fn a_file_that_is_always_just_written_is_read_in_the_end() {
    let mut lab = Lab::with_web();
    lab.write("web.yaml", &service("web", "10.96.0.2"));
    let touch = |lab: &mut Lab, after: Duration| {
        lab.now += after;
        fs::File::options()
            .append(true)
            .open(lab.path("web.yaml"))
            .unwrap()
            .set_modified(lab.now)
            .unwrap();
        words(&lab.directory.scan(lab.now).changes)
    };
    assert_eq!(touch(&mut lab, Duration::ZERO), NOTHING);
    assert_eq!(touch(&mut lab, Duration::from_millis(500)), NOTHING);
    assert_eq!(touch(&mut lab, Duration::from_millis(600)), ["+default/web"]);
}

/// Two writes of the same length within one tick of the clock look the same from outside.
#[test]
fn a_file_read_right_after_it_was_written_is_read_once_more() {
    let mut lab = Lab::new();
    let tick = SystemTime::now() + Duration::from_secs(10);
    let write = |lab: &Lab, address| {
        lab.write("web.yaml", &service("web", address));
        fs::File::options()
            .append(true)
            .open(lab.path("web.yaml"))
            .unwrap()
            .set_modified(tick)
            .unwrap();
    };
    write(&lab, "10.96.0.1");
    assert_eq!(
        words(&lab.directory.scan(tick + Duration::from_millis(50)).changes),
        ["+default/web"]
    );
    write(&lab, "10.96.0.2");
    assert_eq!(
        words(&lab.directory.scan(tick + Duration::from_millis(300)).changes),
        ["+default/web"]
    );
}

#[test]
fn a_directory_that_is_gone_takes_nothing_with_it() {
    let mut lab = Lab::with_web();
    let aside = lab.temp.path().with_extension("aside");
    fs::rename(lab.temp.path(), &aside).unwrap();
    let scan = lab.scan_after(Duration::from_secs(1));
    assert!(scan.changes.is_empty() && scan.problems[0].to_string().contains("cannot list the directory"));
    fs::rename(&aside, lab.temp.path()).unwrap();
    assert_eq!((lab.changes(), lab.problems()), (vec![], vec![]));
}

#[rstest]
#[case::hidden(".web.yaml")]
#[case::other_extension("web.txt")]
#[case::backup("web.yaml~")]
#[case::no_extension("yaml")]
fn files_that_are_none_of_ours(#[case] name: &str) {
    let mut lab = Lab::new();
    lab.write(name, &service("web", "10.96.0.1"));
    assert_eq!((lab.changes(), lab.problems()), (vec![], vec![]));
}

#[rstest]
#[case::directory(|path: &Path| fs::create_dir(path).unwrap(), "it is not a file")]
#[case::pipe_without_writer(|path: &Path| rustix::fs::mknodat(
    rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap(), "it is not a file")]
#[case::too_large(|path: &Path| fs::File::create(path).unwrap().set_len(65 << 20).unwrap(), "it is larger than 64 MiB")]
#[case::not_text(|path: &Path| fs::write(path, b"# \n\xff").unwrap(), "line 2 is not UTF-8 text")]
#[case::link_to_itself(|path: &Path| symlink(path, path).unwrap(), "cannot read it: ")]
fn files_that_cannot_be_read(#[case] make: fn(&Path), #[case] reason: &str) {
    let mut lab = Lab::with_web();
    make(&lab.path("x.yaml"));
    let problems = lab.problems();
    assert!(
        problems.len() == 1 && problems[0].starts_with(&format!("x.yaml: {reason}")),
        "{problems:?}"
    );
    assert_eq!(lab.problems(), problems, "it stays reported");
    assert_eq!(lab.changes(), NOTHING);
}

#[test]
fn conflicts_between_files_are_reported() {
    let mut lab = Lab::with_web();
    lab.write("zzz.yaml", &service("web", "10.96.0.2"));
    let expected = "zzz.yaml:1: Service default/web: web.yaml:1 declares it, too, and comes first";
    assert_eq!(lab.problems(), [expected]);
}
