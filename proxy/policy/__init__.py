"""The policy room: YAML in, one frozen compiled policy out. It decides nothing by itself at run time but which rules match."""
