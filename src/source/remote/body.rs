//! Bodies of requests and of answers: what `object_store` has, and what `ureq` takes and gives.
//!
//! `object_store` hands out the body of an answer in pieces of its own. A reader that has memory for the bytes asks for the body itself,
//! and reads it straight to where they go.

use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpRequestBody};
use ureq::BodyReader;

use super::failure::{RequestFailure, broken};
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
    /// A buffer that nobody has bytes of any more.
    spare: Arc<Mutex<Option<Box<[u8]>>>>,
    tally: Arc<Tally>,
}

/// In the extensions of a request: the body of the answer is wanted, and not its pieces.
#[derive(Debug, Clone, Copy)]
pub(super) struct WholeBody;

/// In the extensions of the answer to such a request: the body.
#[derive(Clone)]
pub(super) struct TakenBody(Arc<Mutex<Option<AnswerBody>>>);

impl TakenBody {
    pub(super) fn new(body: AnswerBody) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// The body, once.
    pub(super) fn take(&self) -> Option<AnswerBody> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.take()
    }
}

/// Bytes of an answer. Their buffer is used again when they are dropped: fresh memory would be cleared for each.
struct AnswerBytes {
    buffer: Box<[u8]>,
    len: usize,
    spare: Arc<Mutex<Option<Box<[u8]>>>>,
}

impl AsRef<[u8]> for AnswerBytes {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for AnswerBytes {
    fn drop(&mut self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        *spare = Some(core::mem::take(&mut self.buffer));
    }
}

impl AnswerBody {
    pub(super) fn new(reader: BodyReader<'static>, wanted: u64, tally: Arc<Tally>) -> Self {
        Self {
            reader,
            left: wanted,
            whole: true,
            spare: Arc::default(),
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

    /// Reads some of the bytes that are wanted; how many, 0 at their end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, RequestFailure> {
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        if most == 0 {
            return Ok(0);
        }
        let reader = &mut self.reader;
        let read = tokio::task::block_in_place(|| reader.read(&mut into[..most]));
        let read = read.map_err(|error| broken(&error))?;
        self.tally.bytes(read);
        self.left = match read {
            0 => 0,
            read => self.left - read as u64,
        };
        if self.left == 0 && self.whole && read > 0 {
            // Finds the end, which waits for nothing, and gives the connection back for the next request.
            let _ = self.reader.read(&mut [0]);
        }
        Ok(read)
    }

    fn frame(&mut self) -> Result<Option<Bytes>, RequestFailure> {
        if self.left == 0 {
            return Ok(None);
        }
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut buffer = spare.unwrap_or_else(|| vec![0; FRAME].into());
        let len = self.read(&mut buffer)?;
        if len == 0 {
            return Ok(None);
        }
        Ok(Some(Bytes::from_owner(AnswerBytes {
            buffer,
            len,
            spare: Arc::clone(&self.spare),
        })))
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
                Some(Err(error.into_http()))
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
