//! What one write or cut did to a file, so that a crash can keep, drop or tear it.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use rand::Rng;
use rand::rngs::StdRng;

/// A change of the content of a file; what is needed to take it back and to make it again.
#[derive(Debug)]
pub(super) enum Change {
    Write { at: u64, old: Vec<u8>, new: Vec<u8>, old_len: u64 },
    Length { old_len: u64, new_len: u64, cut: Vec<u8> },
}

impl Change {
    /// Takes the change back; later ones are taken back already.
    pub(super) fn undo(&self, file: &fs::File) -> io::Result<()> {
        match self {
            Self::Write { at, old, old_len, .. } => {
                file.write_all_at(old, *at)?;
                file.set_len(*old_len)
            }
            Self::Length { old_len, new_len, cut } => {
                file.set_len(*old_len)?;
                file.write_all_at(cut, (*new_len).min(*old_len))
            }
        }
    }

    /// Makes the change again whole, in part, or not at all.
    pub(super) fn redo_some(&self, file: &fs::File, random: &mut StdRng) -> io::Result<()> {
        match self {
            Self::Length { new_len, .. } => {
                if random.random_bool(0.5) {
                    file.set_len(*new_len)?;
                }
                Ok(())
            }
            Self::Write { at, new, .. } => match random.random_range(0..3) {
                0 => Ok(()),
                1 => file.write_all_at(new, *at),
                _ => {
                    let sector = if random.random_bool(0.5) { 512 } else { 4096 };
                    write_some_sectors(file, *at, new, sector, random)
                }
            },
        }
    }
}

fn write_some_sectors(
    file: &fs::File,
    at: u64,
    new: &[u8],
    sector: u64,
    random: &mut StdRng,
) -> io::Result<()> {
    let mut done = 0;
    while done < new.len() {
        let position = at + done as u64;
        let to_boundary = usize::try_from(sector - position % sector).unwrap_or(usize::MAX);
        let length = to_boundary.min(new.len() - done);
        if random.random_bool(0.5) {
            file.write_all_at(&new[done..done + length], position)?;
        }
        done += length;
    }
    Ok(())
}
