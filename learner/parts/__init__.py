"""The parts of which objectives are built: networks with projectors, copies that follow, queues, losses."""
