"""An object that is shown on another picture: kept on disk, and looked for in the stream by its look."""
