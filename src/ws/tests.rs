//! Tests of the WebSocket room.
