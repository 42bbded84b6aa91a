"""Load generator, scenarios and reports. Of the project's own code it imports `hubbub.protocol` only."""
