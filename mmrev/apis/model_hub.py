"""Our classifiers among those that mmpretrain knows by name."""
CLASSIFICATION = 'Image Classification'


def add_classifiers() -> None:
    """Add the classifiers of our metafiles to mmpretrain's `ModelHub`; detectors would be of no use there.

    A model without published weights gets an address that says so when they are asked for: mmpretrain itself would
    warn, and go on with random ones.
    """
    from mmpretrain.apis.model import ModelHub
    from modelindex.load_model_index import load

    from mmrev.checkpoints import published
    index = load(str(published.INDEX))
    index.build_models_with_collections()
    for entry in index.models:
        model = published.find_model(entry.name)
        if CLASSIFICATION in model.tasks:
            entry.config, entry.weights = model.config_file, model.weights
            ModelHub._models_dict[model.name.lower()] = entry
