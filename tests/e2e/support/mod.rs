//! What every room needs: children that die with their test, ports, waiting, real servers, and raw
//! clients that can say what no honest program would.

pub mod client;
pub mod cutter;
pub mod http;
pub mod kit;
pub mod netns;
pub mod ongoing;
pub mod proc;
pub mod servers;
pub mod tcp;
pub mod tunnel;
pub mod upstream;

pub use crate::shared::*;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether the long forms were asked for.
pub fn long() -> bool {
    std::env::var_os("HOODY_LONG").is_some_and(|value| value != "0")
}

/// A directory that goes away with its test.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a new one, readable by every user: some servers run as their own.
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("hoody-e2e-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                // A process of the same number that was killed has left it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("the temp directory takes no folder: {error}"),
            }
        };
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
            .expect("it is ours");
        TempDir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file in it and tells the path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a folder in the temp directory");
        }
        std::fs::write(&path, content).expect("a file in the temp directory");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that look like noise, the same ones for the same seed.
pub struct Noise(u64);

impl Noise {
    /// Starts the stream of `seed`.
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next eight bytes.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// `count` bytes.
    pub fn bytes(seed: u64, count: usize) -> Vec<u8> {
        let mut out = vec![0; count];
        Noise::new(seed).fill(&mut out);
        out
    }

    /// Writes a file of `count` bytes.
    pub fn file(path: &Path, seed: u64, count: u64) {
        use std::io::Write;
        let mut noise = Noise::new(seed);
        let mut file = std::fs::File::create(path).expect("a noise file");
        let mut block = vec![0; 1 << 20];
        let mut left = count;
        while left > 0 {
            noise.fill(&mut block);
            let now = left.min(block.len() as u64) as usize;
            file.write_all(&block[..now])
                .expect("room for a noise file");
            left -= now as u64;
        }
    }
}
