//! What is kept, found again, and what is not ours.

use super::*;
use crate::testing::TempDir;
use std::os::unix::fs::{PermissionsExt, symlink};

const KIT: &str = "ws://kit/";

fn asked(tunnels: &[(&str, u16)]) -> Vec<Asked> {
    let tunnels = tunnels.iter();
    tunnels
        .map(|(name, port)| Asked {
            name: (*name).to_owned(),
            port: *port,
        })
        .collect()
}

fn open_as(dir: &Path, kit: &str, tunnels: &[(&str, u16)]) -> State {
    State::open(dir, kit, &asked(tunnels))
        .unwrap()
        .expect("nobody has it")
}

const TUNNELS: [(&str, u16); 2] = [("expose a", 0), ("pull b", 5432)];

fn open(dir: &Path) -> Option<State> {
    State::open(dir, KIT, &asked(&TUNNELS)).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir).unwrap();
    let path = entries.next().expect("a file").unwrap().path();
    assert!(entries.next().is_none());
    path
}

#[test]
fn it_is_where_the_environment_says_and_nowhere_for_half_a_path() {
    for (state_home, home, wanted) in [
        ("/s", "/h", Some("/s/hoody-tunnel")),
        ("", "/h", Some("/h/.local/state/hoody-tunnel")),
        ("s", "/h", Some("/h/.local/state/hoody-tunnel")),
        ("s", "h", None),
        ("", "", None),
    ] {
        let env = |name: &str| match name {
            "HOME" => Some(home.to_owned()),
            _ => Some(state_home.to_owned()),
        };
        assert_eq!(dir(&env), wanted.map(PathBuf::from));
    }
    assert_eq!(dir(&|_| None), None);
}

#[test]
fn what_was_kept_is_there_again_for_the_same_tunnels_and_no_others() {
    let dir = TempDir::new();
    let dir = dir.path().join("deep/hoody-tunnel");
    let mut state = open(&dir).expect("nobody has it");
    assert_eq!((state.session(), state.port(0)), (None, None));
    state.stands("S-1").unwrap();
    state.bound(0, 23_456).unwrap();
    state.bound(9, 1).unwrap();
    assert!(open(&dir).is_none(), "one process at a time");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&only_file(&dir)), 0o600);
    assert_eq!(mode(&dir), 0o700);
    drop(state);
    let mut state = open(&dir).expect("it is free again");
    assert_eq!(state.session(), Some("S-1"));
    assert_eq!((state.port(0), state.port(1)), (Some(23_456), None));
    // Shorter than before, and without the rest of it.
    state.stands("S").unwrap();
    drop(state);
    assert_eq!(open(&dir).unwrap().session(), Some("S"));
    let foreign: [(&str, &[(&str, u16)]); 3] = [
        ("ws://other/", &TUNNELS),
        (KIT, &[("expose apull b", 0), ("expose c", 80)]),
        (KIT, &[]),
    ];
    for (kit, tunnels) in foreign {
        let other = open_as(&dir, kit, tunnels);
        assert_eq!((other.session(), other.port(0)), (None, None));
    }
    open(&dir).unwrap().forget();
    assert_eq!(open(&dir).unwrap().session(), None);
}

#[test]
fn who_starts_with_other_tunnels_goes_on_from_what_those_that_are_gone_had() {
    let dir = TempDir::new();
    let dir = dir.path();
    let files = || std::fs::read_dir(dir).unwrap().count();
    let leave = |session: &str, tunnels: &[(&str, u16)], ports: &[u16]| {
        let mut state = open_as(dir, KIT, tunnels);
        state.stands(session).unwrap();
        for (index, port) in ports.iter().enumerate() {
            state.bound(index, *port).unwrap();
        }
    };
    leave(
        "S-two",
        &[("expose a", 0), ("pull b", 0)],
        &[20_001, 20_002],
    );
    let alive = {
        let mut state = open_as(dir, KIT, &[("expose f", 0)]);
        state.stands("S-alive").unwrap();
        state.bound(0, 20_009).unwrap();
        state
    };
    leave("S-c", &[("pull c", 5432)], &[5432]);
    leave(
        "S-de",
        &[("expose d", 0), ("expose e", 0)],
        &[20_004, 20_005],
    );
    let edited = [
        ("pull b", 0),
        ("expose a", 0),
        // By its port, for it has another target now.
        ("pull other", 5432),
        ("expose d", 0),
        ("expose f", 0),
        // Its port is a pull's.
        ("expose g", 5432),
    ];
    let known = |state: &State| {
        let one = |at| (state.port(at), state.replaces(at).map(str::to_owned));
        (
            state.session().map(str::to_owned),
            [0, 1, 2, 3, 4, 5].map(one),
        )
    };
    let from = |id: &str| Some(id.to_owned());
    let wanted = [
        (Some(20_002), None),
        (Some(20_001), None),
        (Some(5432), from("S-c")),
        (Some(20_004), from("S-de")),
        (None, None),
        (None, None),
    ];
    // Who is killed before it has said anything leaves all as it was.
    for _ in 0..2 {
        let state = open_as(dir, KIT, &edited);
        assert_eq!(known(&state), (from("S-two"), wanted.clone()));
    }
    let mut state = open_as(dir, KIT, &edited);
    state.stands("S-two").unwrap();
    assert_eq!(known(&state), (from("S-two"), wanted));
    for at in 0..6 {
        state.bound(at, 30_000).unwrap();
        assert_eq!((state.port(at), state.replaces(at)), (Some(30_000), None));
    }
    // Its own, the one that lives, and the one of `expose e`, which is nobody's yet.
    assert_eq!(files(), 3);
    drop((state, alive));
    let mut last = open_as(dir, KIT, &[("expose e", 0)]);
    assert_eq!((last.session(), last.port(0)), (Some("S-de"), Some(20_005)));
    last.stands("S-new").unwrap();
    assert_eq!((last.session(), files()), (Some("S-new"), 3));
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let dir = TempDir::new();
    let target = dir.path().join("target");
    std::fs::write(&target, "precious").unwrap();
    let states = dir.path().join("states");
    open(&states).unwrap().stands("S-1").unwrap();
    let path = only_file(&states);
    let refused = || State::open(&states, KIT, &asked(&TUNNELS));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused().is_err(), "others have read the id");
    std::fs::remove_file(&path).unwrap();
    symlink(&target, &path).unwrap();
    assert!(refused().is_err(), "a link");
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(&target, &path).unwrap();
    assert!(refused().is_err(), "another name of a file");
    std::fs::remove_file(&path).unwrap();
    // By no other program: one that begins holds for a moment what is locked here.
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the name ends with a zero and is only read.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(refused().is_err(), "a pipe");
    std::fs::remove_file(&path).unwrap();
    std::fs::set_permissions(&states, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused().is_err(), "a directory of everybody's");
    let link = dir.path().join("link");
    std::fs::set_permissions(&states, std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&states, &link).unwrap();
    assert!(State::open(&link, KIT, &[]).is_err(), "a link");
    assert!(State::open(&target, KIT, &[]).is_err(), "a file");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn whatever_else_is_in_the_file_is_as_nothing() {
    let dir = TempDir::new();
    let mut state = open(dir.path()).unwrap();
    state.stands("S-1").unwrap();
    let path = only_file(dir.path());
    let good = std::fs::read(&path).unwrap();
    drop(state);
    for cut in 0..good.len() - 2 {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert_eq!(open(dir.path()).unwrap().session(), None, "{cut}");
    }
    let noise = [
        b"\0".repeat(3 << 20),
        b"[1]".to_vec(),
        b"{\"kit\":\"x\"}".to_vec(),
    ];
    for noise in noise {
        std::fs::write(&path, noise).unwrap();
        let mut state = open(dir.path()).unwrap();
        assert_eq!(state.session(), None);
        state.stands("S-2").unwrap();
        drop(state);
        assert_eq!(open(dir.path()).unwrap().session(), Some("S-2"));
    }
}
