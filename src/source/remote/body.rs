//! Bodies of requests and of answers: what `object_store` has, and what `ureq` takes and gives.

use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpRequestBody};
use ureq::BodyReader;

use super::failure::broken;
use crate::source::tally::Tally;

/// Bytes that are read of an answer at once, at most.
const FRAME: usize = 128 << 10;

/// The body of an answer. It is read on the thread that asks for it, which waits.
pub(super) struct AnswerBody {
    reader: BodyReader<'static>,
    /// Bytes that are wanted of it.
    left: u64,
    /// Whether those are all that the server sends.
    whole: bool,
    spare: BytesMut,
    tally: Arc<Tally>,
}

impl AnswerBody {
    pub(super) fn new(reader: BodyReader<'static>, wanted: u64, tally: Arc<Tally>) -> Self {
        Self {
            reader,
            left: wanted,
            whole: true,
            spare: BytesMut::new(),
            tally,
        }
    }

    /// Reads over bytes that nobody wants.
    pub(super) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink())?;
        self.tally.bytes(skipped as usize);
        match skipped == bytes {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads no more than so many bytes from here on.
    pub(super) fn only(&mut self, bytes: u64) {
        self.left = bytes;
        self.whole = false;
    }

    /// The first bytes, or all.
    pub(super) fn beginning(mut self, most: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        // An answer that breaks off says less.
        let _ = self.reader.by_ref().take(most).read_to_end(&mut bytes);
        self.tally.bytes(bytes.len());
        bytes
    }

    fn frame(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.spare.is_empty() {
            self.spare = BytesMut::zeroed(FRAME);
        }
        let most =
            usize::try_from(self.left).map_or(self.spare.len(), |left| left.min(self.spare.len()));
        let read = tokio::task::block_in_place(|| self.reader.read(&mut self.spare[..most]))?;
        self.tally.bytes(read);
        self.left -= read as u64;
        if read == 0 {
            self.left = 0;
            return Ok(None);
        }
        if self.left == 0 && self.whole {
            // Finds the end, which waits for nothing, and gives the connection back for the next request.
            let _ = self.reader.read(&mut [0]);
        }
        Ok(Some(self.spare.split_to(read).freeze()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Poll::Ready(match self.frame() {
            Ok(bytes) => bytes.map(|bytes| Ok(Frame::data(bytes))),
            Err(error) => {
                self.left = 0;
                Some(Err(broken(&error).into_http()))
            }
        })
    }
}

/// The body of a request, to be read.
pub(super) struct RequestBody(HttpRequestBody, Bytes);

impl RequestBody {
    pub(super) fn new(body: HttpRequestBody) -> Self {
        Self(body, Bytes::new())
    }
}

impl Read for RequestBody {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.1.is_empty() {
            // It is in memory, so it is always ready.
            let mut context = Context::from_waker(Waker::noop());
            match Pin::new(&mut self.0).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(frame))) => self.1 = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
                Poll::Ready(None) | Poll::Pending => return Ok(0),
            }
        }
        let read = self.1.len().min(into.len());
        self.1.copy_to_slice(&mut into[..read]);
        Ok(read)
    }
}
