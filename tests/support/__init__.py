"""What several tests share: data sets, networks, records of published models, commands, wheels."""
