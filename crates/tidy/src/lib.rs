//! Tests the shape of the workspace.
