"""The system that learns, gates, publishes and watches the compression choice of DWCP nodes."""
