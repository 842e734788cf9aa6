//! A partial file of the simulated disk.
//!
//! What must never happen here: bytes that are durable without a barrier, or room taken that the disk does not have.

use super::{SimPartial, broken};
use downloader::simulation::PartialFile;
use fsio::FileAttributes;
use std::io;

impl PartialFile for SimPartial {
    fn reserve(&self, size: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operation("reserve", size)?;
        let room = state.available();
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(broken()) };
        if size.saturating_sub(inode.takes()) > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.reserved = size;
        state.step();
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let torn = state.crash_in == Some(0) && state.dice.chance(500);
        let part = if torn { state.dice.index(bytes.len() + 1) } else { bytes.len() };
        let room = state.available();
        if let Some(inode) = state.inodes.get_mut(&self.inode).filter(|_| torn) {
            inode.write(offset as usize, &bytes[..part]);
        }
        state.operation("write", offset)?;
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(broken()) };
        if (offset + bytes.len() as u64).saturating_sub(inode.takes()) > room {
            let part = state.dice.index(bytes.len());
            inode.write(offset as usize, &bytes[..part]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.write(offset as usize, bytes);
        state.step();
        Ok(())
    }

    fn finish(&self, attributes: &FileAttributes) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operation("finish", attributes.size)?;
        let Some(inode) = state.inodes.get_mut(&self.inode) else { return Err(broken()) };
        inode.finish(attributes.size as usize);
        state.step();
        Ok(())
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.disk.fsync(self.inode, true)
    }

    fn fsync(&self) -> io::Result<()> {
        self.disk.fsync(self.inode, false)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.operation("read", offset)?;
        let Some(inode) = state.inodes.get(&self.inode) else { return Err(broken()) };
        let rest = inode.bytes().get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
